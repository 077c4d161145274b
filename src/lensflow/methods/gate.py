"""Language Confusion Gate (LCG, arXiv 2510.17555): a small gate bans families of scripts while the model answers.

Every token belongs to one of four families: Chinese and Japanese; Latin; symbols, which have no letters; and all
others. The state h after the final norm predicts the next token. The gate reads it and says for every family f

    g = U ReLU(P h), P ∈ R^{d×d}, U ∈ R^{4×d}

Training: the backbone is frozen. Let z_v be the logits and w_v the rows of the output layer. Take the likeliest tokens
of z_v/‖w_v‖: at most 20, until their probabilities add up to 0.95. Family f has label 1 if these tokens contain a token
of f. The loss is the binary cross-entropy of sigmoid(g), averaged over families and over the positions that predict the
answers' tokens.

While answering, the wanted families are all families with g ≥ 0 and the one with the largest g. Four groups are
allowed: the wanted families, symbols, all other scripts, and the family of the answer's last token with letters. The
rest is banned. Tokens of banned families get probability 0 if three conditions hold:

- the answer has letters already;
- a token of a banned family may be sampled (with greedy decoding: it is the likeliest token);
- a token of a wanted family is among the likeliest 5 until their probabilities add up to 0.999, or among the likeliest
  20 until they add up to 0.95.

If answers are sampled, z is divided by the temperature first.

Defaults: one epoch, a learning rate of 2e-5, 16 texts per step and 100 warm-up steps (paper), then a linear decay to 0
(HF's Trainer). The paper has 78k instructions. We train on the prompts and answers of the training corpus in all
languages of the setting; with a few hundred texts, raise the rate and the number of epochs. Three things differ. The
authors' loss also counts prompts and pads. The authors sample from the sets above; our temperature and top-p act on the
tokens that are not banned. The authors count the answers A to G as symbols. If a token is a piece of a letter, its
first byte decides its family.

The gate cannot separate languages of one family, such as Swahili and English, or Chinese and Japanese. It does not
change log-likelihoods. The method is told no language.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from lensflow.methods.base import Method, Run, Trained
from lensflow.methods.sft import check_answers
from lensflow.schema.setting import Setting
from lensflow.schema.types import Count, Positive


class Gate(Method):
    """A trained gate bans families of scripts while the model answers."""

    kind: Literal["gate"]
    lr: Positive = 2e-5
    """Learning rate of AdamW. Source: paper."""
    epochs: Count = 1
    """Number of epochs. Source: paper."""
    batch_size: Count = 16
    """Texts per step. Source: paper."""
    warmup: Count = 100
    """Steps in which the learning rate rises; afterwards it falls to 0. Source: paper."""

    def check_items(self, items: Sequence[Mapping[str, Any]], setting: Setting) -> None:
        """Check that there are answers in every language."""
        for language in setting.languages:
            check_answers(self.kind, items, setting, language)


Config = Gate
_BATCH_TOKENS = 128  # whose logits exist at a time


def train(run: Run[Gate]) -> Trained:
    """Train the gate on the backbone's predictions; the dev loss is recorded if the dev split has answers."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits
    from tqdm import tqdm

    from lensflow.artifacts import deltas, interventions
    from lensflow.storage.atomic import write_jsonl

    method = run.method
    texts, dev = observed(run)
    torch.manual_seed(run.seed)
    width = texts[0][0].shape[1]
    inner, outer = (torch.nn.Linear(width, size, bias=False) for size in (width, 4))
    gate = torch.nn.Sequential(inner, torch.nn.ReLU(), outer)
    optimizer = torch.optim.AdamW(gate.parameters(), lr=method.lr, weight_decay=0.0)
    per_epoch = -(-len(texts) // method.batch_size)
    steps = per_epoch * method.epochs

    def rate(step: int) -> float:
        return min((step + 1) / method.warmup, (steps - step) / max(1, steps - method.warmup), 1.0)

    def loss_of(batch: Sequence[Any]) -> Any:
        states, labels = (torch.cat(parts) for parts in zip(*batch, strict=True))
        return binary_cross_entropy_with_logits(gate(states), labels.float())

    def on_dev(step: int) -> Iterator[dict[str, Any]]:
        if dev:
            with torch.no_grad():
                yield {"step": step, "epoch": step / per_epoch, "split": "dev", "loss": float(loss_of(dev))}

    history = list(on_dev(0))
    with tqdm(total=steps, desc=run.output.parent.parent.name, unit="step", mininterval=1) as progress:
        for epoch in range(method.epochs):
            for number, batch in enumerate(torch.split(torch.randperm(len(texts)), method.batch_size)):
                step = epoch * per_epoch + number
                lr = method.lr * rate(step)
                optimizer.param_groups[0]["lr"] = lr
                optimizer.zero_grad()
                loss = loss_of([texts[index] for index in batch])
                loss.backward()
                optimizer.step()
                place = {"step": step + 1, "epoch": round((step + 1) / per_epoch, 4), "split": "train"}
                history.append(place | {"loss": float(loss.detach()), "lr": lr})
                progress.update()
            history += on_dev((epoch + 1) * per_epoch)
    matrices = interventions.Gate(inner.weight.detach(), outer.weight.detach())
    interventions.write(interventions.Intervention(gate=matrices), run.output)
    deltas.write({}, run.backbone.parent, run.output)
    write_jsonl(run.output.with_name("history.jsonl"), history)
    tokens = sum(len(states) for states, _ in texts) * method.epochs
    return Trained(tokens, sum(parameter.numel() for parameter in gate.parameters()))


def observed(run: Run[Gate]) -> tuple[list[Any], list[Any]]:
    """Run the answers of the train and dev splits through the backbone.

    Returns:
        For every text of train and of dev the states (n, d) float32 that predict its answer's n tokens, and which
        families (n, 4) have label 1.
    """
    import torch
    from tqdm import tqdm

    from lensflow.mathematics.probabilities import families_among
    from lensflow.models.batching import batches_by_length, pad
    from lensflow.models.engines.gate import NEAR, families_of
    from lensflow.models.loading import device_of, load_model
    from lensflow.models.tokenizer import PromptTokenizer
    from lensflow.storage.journal import used
    from lensflow.storage.verified import read_jsonl

    tokenizer = PromptTokenizer(run.backbone.parent, run.prompt)
    model = load_model(run.backbone.parent, "float32", "sdpa").to(device_of(run.gpus)).eval()
    head: Any = model.get_output_embeddings()
    families = families_of(tokenizer, len(head.weight)).to(model.device)
    lengths = head.weight.detach().norm(dim=1)
    given: list[tuple[str, list[int], list[bool]]] = []
    for path in (run.texts[language] for language in run.setting.languages):
        rows = {line: row for line, row in enumerate(read_jsonl(path), start=1) if "answer" in row}
        rows = {line: row for line, row in rows.items() if row["split"] in ("train", "dev")}
        used(path, list(rows))
        given += [(row["split"], *tokenizer.encode_answered(row["prompt"], row["answer"])) for row in rows.values()]
    found: dict[int, Any] = {}
    with torch.inference_mode(), tqdm(total=len(given), desc="texts", unit="text", mininterval=1) as progress:
        for batch in batches_by_length([len(ids) for _, ids, _ in given], _BATCH_TOKENS):
            ids, _ = pad([given[index][1] for index in batch])
            predicts = torch.zeros_like(ids, dtype=torch.bool)
            for row, index in zip(predicts, batch, strict=True):
                counted = given[index][2][1:]
                row[: len(counted)] = torch.tensor(counted)
            entered: list[Any] = []

            def keep(module: Any, args: Any, predicts: Any = predicts, entered: list[Any] = entered) -> tuple[Any]:
                entered.append(args[0][predicts])
                return (entered[0],)

            with head.register_forward_pre_hook(keep):
                logits = model(ids.to(model.device), use_cache=False).logits.float()
            labels = families_among(logits / lengths, families, *NEAR[1]).cpu()
            sizes = predicts.sum(1).tolist()
            states = torch.split(entered[0].float().cpu(), sizes)
            found |= dict(zip(batch, zip(states, torch.split(labels, sizes), strict=True), strict=True))
            progress.update(len(batch))
    # Tensors of inference mode cannot be trained on.
    texts = [(given[index][0], *(tensor.clone() for tensor in found[index])) for index in range(len(given))]
    train, dev = ([(states, labels) for name, states, labels in texts if name == split] for split in ("train", "dev"))
    return train, dev
