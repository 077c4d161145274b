"""Training of the top layers on cached states (stage `train`).

The frozen layers ran once, in `extract_hidden_states`: here only the top layers exist, fed with the states that enter
them. Weights, gradients and optimizer are float32 whatever the backbone's precision, because at lr 1e-5 an update of
bfloat16 weights rounds away; `precision: backbone` lets it, as the published code does.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from lensflow import fitting, hidden_states
from lensflow.config import Lens, Setting
from lensflow.corpora import Text, check_aligned, read_texts
from lensflow.decoders import WeightFiles, batches_by_length, layers_of, load_top_layers, only_last_token, tap_layers
from lensflow.errors import LensflowError
from lensflow.files import atomic_path, canonical_json, digest, write_jsonl
from lensflow.methods.lens import LensObjective, objective

LENGTH_WINDOW = 8  # batches that are sorted by length together, for little padding at little loss of randomness
CHECKPOINT_SECONDS = 60.0
Pair = tuple[int, str]  # index of the text, target language


@dataclass(frozen=True)
class CachedTexts:
    """The states of one language's texts where they enter the trained layers, and the backbone's own at the top.

    Attributes:
        texts: N texts.
        tokens: (sum of lengths, d), memory-mapped.
        starts: N+1 offsets into `tokens`.
        top: (N, d) last-token states of the untouched backbone at the top, in the setting's space.
    """

    texts: list[Text]
    tokens: Tensor
    starts: list[int]
    top: Tensor

    def length(self, index: int) -> int:
        """Return the number of tokens of a text."""
        return self.starts[index + 1] - self.starts[index]

    def entering(self, index: int) -> Tensor:
        """Return a text's states, (tokens, d), float32."""
        return self.tokens[self.starts[index] : self.starts[index + 1]].float()

    def of_split(self, split: str) -> list[int]:
        """Return the indices of the texts of a split."""
        return [index for index, text in enumerate(self.texts) if text.split == split]


def read_cache(states: Path, texts: Path, space: str) -> CachedTexts:
    """Open one language's cached states.

    Raises:
        LensflowError: the states do not belong to the texts, or hold no token states.
    """
    kept = read_texts(texts, ["train", "dev"])
    loaded = hidden_states.load(states)
    if len(kept) != len(loaded.lengths):
        raise LensflowError(f"{states}: holds other texts than {texts}; delete it and run again")
    if not len(loaded.tokens):
        raise LensflowError(f"{states}: holds no token states to train on; raise extraction.trainable_layers")
    top = loaded.last_post_norm if space == "post_norm" else loaded.last[-1]
    return CachedTexts(kept, loaded.tokens, [0, *loaded.lengths.cumsum(0).tolist()], top.float())


class TopStack:
    """The top layers of a decoder, run on cached states.

    Args:
        decoder: as many top layers as the cache holds the input of, and the final norm.
        trained: how many of them train; the ones below only pass states on.
        space: `post_norm` or `pre_norm`.
    """

    def __init__(self, decoder: nn.Module, trained: int, space: str) -> None:
        self.decoder = decoder
        self.space = space
        self.depth = len(layers_of(decoder))
        for layer in layers_of(decoder)[: self.depth - trained]:
            layer.requires_grad_(False)

    def states(self, entering: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Run n texts, padded on the right.

        Args:
            entering: n tensors (T_i, d).

        Returns:
            States (n, T, d) at the top and lengths (n,).
        """
        padded, lengths = self._pad(entering)
        return self._top(padded), lengths

    def last(self, entering: Sequence[Tensor]) -> Tensor:
        """Return the last-token states (n, d) at the top; like `last_token(*self.states(entering))`, but faster."""
        padded, lengths = self._pad(entering)
        with only_last_token(self.decoder, lengths):
            return self._top(padded).squeeze(1)

    @torch.no_grad()
    def last_of(self, cache: CachedTexts, indices: Sequence[int], batch_tokens: int = 4096) -> Tensor:
        """Return the last-token states (len(indices), d) of some texts, without gradients."""
        result = torch.empty(len(indices), cache.tokens.shape[1])
        for batch in batches_by_length([cache.length(index) for index in indices], batch_tokens):
            result[batch] = self.last([cache.entering(indices[position]) for position in batch]).float()
        return result

    def _top(self, padded: Tensor) -> Tensor:
        with tap_layers(self.decoder, [], [self.depth - 1]) as tapped:
            output: Tensor = self.decoder(inputs_embeds=padded, use_cache=False).last_hidden_state
        return output if self.space == "post_norm" else tapped["out", self.depth - 1]

    def _pad(self, entering: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([len(states) for states in entering])
        padded = nn.utils.rnn.pad_sequence(list(entering), batch_first=True)
        return padded.to(next(self.decoder.parameters()).dtype), lengths


def epoch_batches(
    pairs: list[Pair], lengths: list[int], batch_size: int, generator: torch.Generator
) -> list[list[Pair]]:
    """Shuffle pairs into batches whose members have like lengths.

    Args:
        pairs: what one epoch goes over.
        lengths: tokens of each pair.
        batch_size: pairs a batch; the last one may be smaller, none is dropped.
        generator: source of randomness.
    """
    order = torch.randperm(len(pairs), generator=generator).tolist()
    window = LENGTH_WINDOW * batch_size
    batches = []
    for start in range(0, len(order), window):
        near = sorted(order[start : start + window], key=lambda index: lengths[index])
        batches += [near[begin : begin + batch_size] for begin in range(0, len(near), batch_size)]
    shuffled = torch.randperm(len(batches), generator=generator).tolist()
    return [[pairs[index] for index in batches[number]] for number in shuffled]


def optimizer_groups(decoder: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split trained parameters as HF's Trainer does: norms and biases are not decayed."""
    trained = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


class LensTrainer:
    """One training run, which can stop at any step and go on to the bit-identical end.

    Args:
        config: the method.
        setting: languages and space.
        seed: of the order of batches.
        stack: the top layers.
        caches: cached texts of every language of the setting.
        target: the objective.
    """

    def __init__(
        self,
        config: Lens,
        setting: Setting,
        seed: int,
        stack: TopStack,
        caches: dict[str, CachedTexts],
        target: LensObjective,
    ) -> None:
        from transformers import get_scheduler

        self.config, self.setting, self.seed = config, setting, seed
        self.stack, self.caches, self.objective = stack, caches, target
        central = caches[setting.central]
        self.pairs = {
            split: [(index, language) for language in setting.targets for index in central.of_split(split)]
            for split in ("train", "dev")
        }
        if not self.pairs["train"]:
            raise LensflowError("the training corpus has no text in its train split")
        self.steps_per_epoch = math.ceil(len(self.pairs["train"]) / config.batch_size)
        self.steps = self.steps_per_epoch * config.epochs
        # fused: one call a step instead of several a tensor.
        self.optimizer = torch.optim.AdamW(
            optimizer_groups(stack.decoder, config.weight_decay), lr=config.lr, fused=True
        )
        # HF's plain "constant" would ignore the warm-up.
        schedule = "constant_with_warmup" if config.schedule == "constant" else config.schedule
        self.scheduler = get_scheduler(
            schedule,
            self.optimizer,
            num_warmup_steps=math.ceil(config.warmup * self.steps),
            num_training_steps=self.steps,
        )
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self._retained = self._token_references() if config.retain_on == "mean" else {}

    def _token_references(self) -> dict[int, Tensor]:
        """States of all tokens of the central texts at the top of the untouched backbone."""
        cache = self.caches[self.setting.central]
        references = {}
        with torch.no_grad():
            for index in range(len(cache.texts)):
                references[index] = self.stack.states([cache.entering(index)])[0][0]
        return references

    def terms(self, batch: list[Pair]) -> dict[str, Tensor]:
        """Return the unweighted loss terms of a batch of pairs."""
        central = self.caches[self.setting.central]
        indices = [index for index, _ in batch]
        languages = [language for _, language in batch]
        central_entering = [central.entering(index) for index in indices]
        target_entering = [self.caches[language].entering(index) for index, language in batch]
        target_reference = torch.stack([self.caches[language].top[index] for index, language in batch])
        if self.config.retain_on == "last":
            states = self.stack.last(central_entering + target_entering)
            return self.objective.terms(
                languages, states[len(batch) :], target_reference, states[: len(batch)], central.top[indices]
            )
        states, lengths = self.stack.states(central_entering)
        reference = nn.utils.rnn.pad_sequence([self._retained[index] for index in indices], batch_first=True)
        mask = (torch.arange(states.shape[1]) < lengths[:, None]).long()
        target = self.stack.last(target_entering)
        return self.objective.terms(languages, target, target_reference, states, reference, mask)

    def record(self, split: str, terms: dict[str, float], lr: float) -> None:
        """Append a line to the history."""
        loss = float(self.objective.loss({name: torch.tensor(value) for name, value in terms.items()}))
        place = {"step": self.step, "epoch": round(self.step / self.steps_per_epoch, 4), "split": split, "lr": lr}
        self.history.append(place | {"loss": loss} | terms)

    @torch.no_grad()
    def evaluate_dev(self) -> None:
        """Record the terms over all dev pairs."""
        pairs = self.pairs["dev"]
        sums = dict.fromkeys(("pull", "push", "retain"), 0.0)
        for start in range(0, len(pairs), 16):
            batch = pairs[start : start + 16]
            for name, value in self.terms(batch).items():
                sums[name] += float(value) * len(batch)
        if pairs:
            self.record("dev", {name: value / len(pairs) for name, value in sums.items()}, 0.0)

    def run(self, scratch: Path, label: str) -> None:
        """Train to the end, from the checkpoint in `scratch` if one is there.

        Raises:
            LensflowError: the loss is not finite; names the languages and texts of the batch.
        """
        self.load_checkpoint(scratch)
        if self.step == 0:
            self.evaluate_dev()
        saved = time.monotonic()
        with tqdm(total=self.steps, initial=self.step, desc=label, unit="step", mininterval=1) as progress:
            while self.step < self.steps:
                epoch, offset = divmod(self.step, self.steps_per_epoch)
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                for batch in epoch_batches(*self._epoch(), self.config.batch_size, generator)[offset:]:
                    self._train_step(batch)
                    progress.update(1)
                    if self.step % self.steps_per_epoch == 0:
                        self.evaluate_dev()
                    if time.monotonic() - saved >= CHECKPOINT_SECONDS and self.step < self.steps:
                        self.save_checkpoint(scratch)
                        saved = time.monotonic()

    def _epoch(self) -> tuple[list[Pair], list[int]]:
        central = self.caches[self.setting.central]
        pairs = self.pairs["train"]
        return pairs, [max(central.length(i), self.caches[language].length(i)) for i, language in pairs]

    def _train_step(self, batch: list[Pair]) -> None:
        terms = self.terms(batch)
        loss = self.objective.loss(terms)
        if not loss.isfinite():
            texts = ", ".join(f"{language} {self.caches[language].texts[index].id}" for index, language in batch)
            raise LensflowError(f"step {self.step + 1}: the loss is not finite; lower lr or lambda (texts: {texts})")
        loss.backward()  # type: ignore[no-untyped-call]
        lr = self.scheduler.get_last_lr()[0]
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.record("train", {name: float(value.detach()) for name, value in terms.items()}, lr)

    def _identity(self) -> str:
        """What a checkpoint must have been made with to go on from it."""
        parts = [self.config.canonical(), self.setting.canonical(), self.seed, self.steps]
        sums = {language: float(cache.top.double().sum()) for language, cache in self.caches.items()}
        shifts = {language: float(shift.double().norm()) for language, shift in self.objective.shifts.items()}
        return digest([parts, sums, shifts])

    def save_checkpoint(self, scratch: Path) -> None:
        """Write parameters, optimizer state, step and history, atomically and without pickle."""
        tensors = {}
        for index, parameter in enumerate(self._trained()):
            tensors[f"{index}.value"] = parameter.detach()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{index}.{key}"] = value
        metadata = {
            "identity": self._identity(),
            "step": str(self.step),
            "history": canonical_json(self.history),
            "scheduler": canonical_json(self.scheduler.state_dict()),
        }
        with atomic_path(scratch) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    def load_checkpoint(self, scratch: Path) -> None:
        """Go on from a checkpoint of the same run; one of another run is ignored."""
        if not scratch.is_file():
            return
        with safe_open(scratch, framework="pt") as file:
            metadata = file.metadata()
        if metadata["identity"] != self._identity():
            return
        tensors = load_file(scratch)
        for index, parameter in enumerate(self._trained()):
            parameter.data.copy_(tensors[f"{index}.value"])
            prefix = f"{index}."
            self.optimizer.state[parameter] = {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix) and not name.endswith(".value")
            }
        self.step = int(metadata["step"])
        self.history = json.loads(metadata["history"])
        self.scheduler.load_state_dict(json.loads(metadata["scheduler"]))
        for group, lr in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = lr

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def check_stack(stack: TopStack, caches: dict[str, CachedTexts], tolerance: float) -> None:
    """Check on a few texts that the top layers alone give the whole backbone's states.

    Raises:
        LensflowError: they do not; names the language and the text.
    """
    for language, cache in caches.items():
        indices = list(range(min(2, len(cache.texts))))
        states = stack.last_of(cache, indices)
        error = (states - cache.top[indices]).norm(dim=1) / cache.top[indices].norm(dim=1)
        if not (error < tolerance).all():
            raise LensflowError(
                f"{language}, text {cache.texts[int(error.argmax())].id}: the top layers alone give other states than "
                f"the whole backbone (relative error {float(error.max()):.1e}); this model family is not supported"
            )


def train(
    config: Lens,
    setting: Setting,
    seed: int,
    cached_layers: int,
    checkpoint: Path,
    subspaces: Path,
    states: dict[str, Path],
    texts: dict[str, Path],
    output: Path,
) -> None:
    """Train one method on one setting.

    Args:
        config: the method.
        setting: languages and space.
        seed: of the order of batches.
        cached_layers: number of top layers that the cached states enter (`extraction.trainable_layers`).
        checkpoint: folder of the backbone.
        subspaces: what `fit_subspaces` wrote.
        states: for each language, what `extract_hidden_states` wrote.
        texts: for each language, what `pair_data` wrote.
        output: `delta.safetensors`, the trained tensors that differ from the backbone's, float32, under the
            checkpoint's names; `history.jsonl` and `dev_states.safetensors` are written beside it.
    """
    caches = {language: read_cache(states[language], texts[language], setting.space) for language in setting.languages}
    check_aligned({language: cache.texts for language, cache in caches.items()})
    backbone_dtype = caches[setting.central].tokens.dtype
    dtype = backbone_dtype if config.precision == "backbone" else torch.float32
    decoder, names = load_top_layers(checkpoint, cached_layers, dtype)
    stack = TopStack(decoder, config.layers, setting.space)
    check_stack(stack, caches, tolerance=1e-3 if backbone_dtype == torch.float32 else 5e-2)
    target = objective(config, fitting.load(subspaces, setting), setting.targets)
    dev = caches[setting.central].of_split("dev")
    dev_states = {f"before.{language}": cache.top[dev] for language, cache in caches.items()}

    trainer = LensTrainer(config, setting, seed, stack, caches, target)
    scratch = output.parent / ".training.safetensors"
    trainer.run(scratch, output.parent.parent.name)

    dev_states |= {f"after.{language}": stack.last_of(cache, dev) for language, cache in caches.items()}
    backbone = WeightFiles(checkpoint)  # read again rather than kept: a copy of the layers is gigabytes
    delta = {
        names[name]: value.detach().float().contiguous()
        for name, value in decoder.named_parameters()
        if value.requires_grad and not torch.equal(backbone.read(names[name]).to(value.dtype), value)
    }
    write_jsonl(output.parent / "history.jsonl", trainer.history)
    with atomic_path(output.parent / "dev_states.safetensors") as temporary:
        save_file(dev_states, temporary)
    with atomic_path(output) as temporary:
        save_file(delta, temporary)
    scratch.unlink(missing_ok=True)
