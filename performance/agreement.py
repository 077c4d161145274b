"""Compare the published procedure with ours, stage by stage, and write docs/agreement.md.

    python performance/agreement.py results/smollm2-135m-instruct/backbone/manifest.json DATASETS

`DATASETS` holds a clone of github.com/circle-hit/Lens under the name lens-official. Both sides read the authors' files:
`published_procedure.py` as that code does, ours through the stages with `config/published.yaml`. It takes some minutes.
"""

import argparse
import json
import math
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import published_procedure as published
from lensflow.artifacts import language_subspaces, states
from lensflow.artifacts.language_subspaces import LanguageSubspaces
from lensflow.artifacts.texts import read_texts
from lensflow.methods.lens.training import epoch_batches
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.stages import Extracting, Fitting, Pairing, Training
from lensflow.stages import extract_hidden_states, fit_subspaces, pair_data, train
from lensflow.storage.atomic import write_text
from lensflow.storage.verified import read_jsonl
from lensflow.workflow.experiment import Config, read
from lensflow.workflow.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
BACKBONE, SETTING, METHOD = "smollm2-135m-instruct", "paper-en-zh", "lens-published"
LANGUAGES, CENTRAL, TARGET = ("en", "zh"), "en", "zh"
PROBING, MANIPULATION = "lens-probing", "lens-manipulation"
ANSWERED, ANSWER_TOKENS = 8, 16  # prompts that both trained models answer
# Precision -> dtype of probing and of training.
PRECISIONS = {"float32": ("float32", "float32"), "as published": ("float16", "bfloat16")}


@dataclass(frozen=True)
class Ours:
    """What our stages wrote: folder of texts, states and subspaces, loss of each step, trained tensors by name."""

    probing_ids: dict[str, list[list[int]]]
    training_ids: dict[str, list[list[int]]]
    states: dict[str, Tensor]  # (N, d) of each language at the top
    subspaces: LanguageSubspaces
    losses: list[float]
    weights: dict[str, Tensor]


def configuration(texts: int, pairs: int, dtypes: tuple[str, str]) -> Config:
    """config/published.yaml on the authors' files, on so many texts, in one precision."""
    run = {
        "backbones": [BACKBONE],
        "settings": [SETTING],
        "methods": [METHOD],
        "benchmarks": [{"generation": list(LANGUAGES)}],
    }
    corpora = {
        PROBING: {"dtype": dtypes[0], "dataset": {"train": texts}},
        MANIPULATION: {"dtype": dtypes[1], "dataset": {"train": pairs}},
    }
    return read([ROOT / "config/published.yaml"], ROOT, {"corpora": corpora, "runs": [run]})


def ours(config: Config, manifest: Path, datasets: Path, work: Path) -> Ours:
    """Run our stages."""
    plan = Plan(config, ROOT, ROOT)
    (checkpoint,) = plan.trained()
    files = {
        corpus: {
            "states": [work / corpus / f"{language}.safetensors" for language in LANGUAGES],
            "texts": [work / corpus / f"{language}.jsonl" for language in LANGUAGES],
        }
        for corpus in (PROBING, MANIPULATION)
    }
    ids: dict[str, dict[str, list[list[int]]]] = {}
    for corpus, paths in files.items():
        extracting = Extracting.model_validate(plan.extract_hidden_states(BACKBONE, corpus))
        tokenizer = PromptTokenizer(manifest.parent, extracting.prompt)
        ids[corpus] = {}
        for language, texts in zip(LANGUAGES, paths["texts"], strict=True):
            pairing = Pairing.model_validate(plan.pair_data(corpus, language))
            pair_data.run(pairing, root=ROOT, datasets_root=datasets, output=texts)
            kept = read_texts(texts, ["train"])
            ids[corpus][language] = extract_hidden_states.tokenize(tokenizer, language, kept, extracting.extraction).ids
        extract_hidden_states.run(extracting, backbone=manifest, texts=paths["texts"], gpus=0, outputs=paths["states"])
    subspaces, delta = work / "subspaces.safetensors", work / "run" / "seed0" / "delta.safetensors"
    fit_subspaces.run(Fitting.model_validate(plan.fit_subspaces(SETTING)), **files[PROBING], output=subspaces)
    delta.parent.mkdir(parents=True)
    training = Training.model_validate(plan.train(checkpoint))
    train.run(training, backbone=manifest, subspaces=subspaces, **files[MANIPULATION], gpus=0, output=delta)
    history = [row for row in read_jsonl(delta.parent / "history.jsonl") if row["split"] == "train"]
    top = {language: states.load(work / PROBING / f"{language}.safetensors").post_norm for language in LANGUAGES}
    return Ours(
        ids[PROBING],
        ids[MANIPULATION],
        top,
        language_subspaces.load(subspaces, config.settings[SETTING]),
        [row["loss"] for row in history],
        {name: tensor.float() for name, tensor in load_file(delta).items()},
    )


def raw_texts(
    datasets: Path, texts: int, pairs: int, config: Config
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Read the authors' files as they are: probing and training texts of each language."""
    probing, manipulation = (config.corpora[name].dataset for name in (PROBING, MANIPULATION))
    assert probing is not None and manipulation is not None
    rows = read_jsonl(datasets / probing.path / str(probing.file))[:texts]
    path = datasets / manipulation.path / str(manipulation.file)
    instances = json.loads(path.read_text(encoding="utf-8"))["Instances"][:pairs]
    return (
        {language: [row[language] for row in rows] for language in LANGUAGES},
        {language: [row[f"input_{language}"] for row in instances] for language in LANGUAGES},
    )


def angle(one: Tensor, other: Tensor) -> float:
    """The largest principal angle in radians between the column spaces of (d, r) and (d, r), precise for small ones."""
    first, second = (torch.linalg.qr(basis.double()).Q for basis in (one, other))
    rest = second - first @ (first.T @ second)
    return float(torch.asin(torch.linalg.matrix_norm(rest, 2).clamp(max=1)))


def angles(found: LanguageSubspaces, spaces: published.Spaces) -> tuple[float, float]:
    """The largest angles over all layers, between the subspaces M_s and between the directions M_a."""
    layers = range(len(spaces.specific))
    specific = max(angle(found.specific[layer], spaces.specific[layer].T) for layer in layers)
    return specific, max(angle(found.agnostic[layer, :, None], spaces.agnostic[layer, :, None]) for layer in layers)


def cosine(one: Tensor, other: Tensor) -> float:
    """Cosine of two tensors as vectors."""
    return float(torch.nn.functional.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))


def update(weights: dict[str, Tensor], base: dict[str, Tensor]) -> Tensor:
    """The change of all trained weights as one vector."""
    return torch.cat([(weights[name].double() - base[name].double()).flatten() for name in sorted(weights)])


def equal(found: dict[str, list[Any]], other: dict[str, list[Any]]) -> str:
    """How many of the rows of all languages are equal."""
    pairs = [pair for language in LANGUAGES for pair in zip(found[language], other[language], strict=True)]
    return f"{sum(one == two for one, two in pairs)} of {len(pairs)} equal"


def unpadded(batch: Any) -> list[list[int]]:
    """Token ids of a batch without its pads."""
    rows = zip(batch.input_ids.tolist(), batch.attention_mask.tolist(), strict=True)
    return [[index for index, real in zip(*row, strict=True) if real] for row in rows]


@torch.no_grad()
def answers(model: Any, tokenizer: Any, weights: dict[str, Tensor], ids: list[list[int]]) -> list[list[int]]:
    """Greedy answers to prompts of token ids with some weights put in."""
    model.load_state_dict({name: weight.to(model.dtype) for name, weight in weights.items()}, strict=False)
    return [
        model.generate(
            torch.tensor([row]),
            attention_mask=torch.ones(1, len(row), dtype=torch.long),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )[0, len(row) :].tolist()
        for row in ids
    ]


def compare(name: str, manifest: Path, datasets: Path, texts: int, pairs: int) -> Iterator[tuple[str, str]]:
    """Run both sides in one precision; yield a measure and its value."""
    dtypes = PRECISIONS[name]
    config = configuration(texts, pairs, dtypes)
    with tempfile.TemporaryDirectory() as work:
        found = ours(config, manifest, datasets, Path(work))
    probing, training = raw_texts(datasets, texts, pairs, config)
    tokenizer = AutoTokenizer.from_pretrained(manifest.parent)

    def model(dtype: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(manifest.parent, dtype=getattr(torch, dtype)).eval()

    def probed(side: str, run: Any) -> tuple[published.Spaces, dict[str, Tensor], dict[str, list[list[int]]]]:
        tokenizer.padding_side = side
        batches = {language: published.probing_batch(tokenizer, probing[language]) for language in LANGUAGES}
        top = {language: published.hidden_states(run, batch) for language, batch in batches.items()}
        return published.probe(top), top, {language: unpadded(batch) for language, batch in batches.items()}

    run = model(dtypes[0])
    spaces, top, probing_ids = probed("left", run)
    training_ids = {language: published.training_ids(tokenizer, training[language]) for language in LANGUAGES}
    yield "prompts: token ids to probe", equal(found.probing_ids, probing_ids)
    yield "prompts: token ids to train", equal(found.training_ids, training_ids)
    differences = [(found.states[code].float() - top[code][-1].float()).norm() for code in LANGUAGES]
    lengths = [top[code][-1].float().norm() for code in LANGUAGES]
    relative = max(float(one / two) for one, two in zip(differences, lengths, strict=True))
    yield "states at the top: relative difference", f"{relative:.1e}"
    specific, agnostic = angles(found.subspaces, spaces)
    yield "subspaces: largest angle of M_s over the layers (rad)", f"{specific:.1e}"
    yield "subspaces: largest angle of M_a over the layers (rad)", f"{agnostic:.1e}"
    own = found.subspaces.directions[-1, LANGUAGES.index(TARGET)]
    yield "direction δ of zh: cosine", f"{cosine(own, spaces.directions[TARGET]):.7f}"
    ratio = float(own.double().norm() / spaces.directions[TARGET].double().norm())
    yield "direction δ of zh: length, ours / published", f"{ratio:.5f}"
    if name == "float32":
        right, _, ids = probed("right", run)
        padded = sum(len(row) < published.PROBING_TOKENS for rows in ids.values() for row in rows)
        yield (
            f"M_s at the top if pads stand at the end ({padded} of {2 * texts} texts have some) (rad)",
            (f"{angle(found.subspaces.specific[-1], right.specific[-1].T):.1e}"),
        )
    del run

    units = [[(index, TARGET)] for index in range(pairs)]
    same = [unit[0][0] for batch in epoch_batches(units, 8, torch.Generator().manual_seed(0)) for unit in batch]
    other = torch.randperm(pairs, generator=torch.Generator().manual_seed(42)).tolist()
    reference = model(dtypes[1])
    base = {key: value.float() for key, value in reference.state_dict().items()}
    moved = update(found.weights, base)
    for described, order in (("our order of texts", same), ("another order", other)):
        trained = published.train(model(dtypes[1]), reference, training_ids, spaces, order)
        mean, their = sum(found.losses) / len(found.losses), sum(trained.losses) / len(trained.losses)
        yield f"{described}: mean loss of the epoch, ours", f"{mean:.6g}"
        yield f"{described}: its relative difference", f"{abs(mean - their) / their:.1e}"
        if order is same:
            steps = max(abs(a - b) / b for a, b in zip(found.losses, trained.losses, strict=True))
            yield f"{described}: largest relative difference of a step's loss", f"{steps:.1e}"
        theirs = update(trained.weights, base)
        yield f"{described}: cosine of the update of the weights", f"{cosine(moved, theirs):.4f}"
        yield f"{described}: length of the update, ours / published", f"{float(moved.norm() / theirs.norm()):.4f}"
        if order is same:
            prompts = training_ids[TARGET][:ANSWERED]
            pairs_of = [answers(model(dtypes[1]), tokenizer, w, prompts) for w in (found.weights, trained.weights)]
            alike = sum(one == two for one, two in zip(*pairs_of, strict=True))
            yield f"{described}: greedy answers in zh, {ANSWER_TOKENS} tokens", f"{alike} of {len(prompts)} equal"


PAGE = """# Agreement with the published procedure

`python performance/agreement.py MANIFEST DATASETS` writes this page. The page compares our stages with the published
procedure, step by step. `performance/published_procedure.py` follows the published code line by line. Our stages run
with `config/published.yaml`. Both sides read the authors' files and use SmolLM2-135M-Instruct: {texts} probing texts
and {pairs} training texts per language, en and zh. Measured on {machine} with torch {torch}.

The column "as published" uses float16 for probing and bfloat16 for training. The published code's own backbones are
4-8B models, which this page does not run.

{table}

## What remains, and why

- **Precision.** In float32 both sides compute the same numbers up to rounding. In the column "as published", the
  published procedure rounds the language means and δ to float16, and the terms of the loss to bfloat16. Our stages
  average in float64 and compare in float32.
- **Order of batches.** HF's Trainer shuffles with its own generator. The rows "another order" show the effect of a
  different order of the same texts after one epoch of {steps} steps. The rows "our order of texts" give both sides
  the same order.
- **Pads.** The published code reads the state at position -1. This page pads on the left. If a tokenizer pads on the
  right, position -1 of a short text is a pad. The row "if pads stand at the end" shows the effect.
- **Truncated prompts.** Both sides cut the end of a prompt: after 64 tokens to probe, and after 128 to train. A long
  prompt therefore does not end with the tokens of the generation prompt.
"""


def processor() -> str:
    """The processor's name, as Linux gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def main() -> None:
    """Compare, and write the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("manifest", type=Path, help="manifest.json of the prepared SmolLM2-135M-Instruct")
    options.add_argument("datasets", type=Path, help="folder that holds lens-official")
    options.add_argument("--texts", type=int, default=50, help="probing texts of each language")
    options.add_argument("--pairs", type=int, default=40, help="training texts of each language")
    args = options.parse_args()
    columns: dict[str, dict[str, str]] = {}
    for name in PRECISIONS:
        columns[name] = {}
        for measure, value in compare(name, args.manifest.resolve(), args.datasets.resolve(), args.texts, args.pairs):
            columns[name][measure] = value
            print(f"{name}: {measure}: {value}", flush=True)
    first = columns["float32"]
    rows = [["stage", *columns], ["---"] * (1 + len(columns))]
    rows += [[measure, *(column.get(measure, "–") for column in columns.values())] for measure in first]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    steps = math.ceil(args.pairs / 8)
    facts = {
        "texts": args.texts,
        "pairs": args.pairs,
        "steps": steps,
        "machine": processor(),
        "torch": torch.__version__,
    }
    write_text(ROOT / "docs/agreement.md", PAGE.format(table=table, **facts))


if __name__ == "__main__":
    main()
