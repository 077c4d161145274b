"""Training of the top layers on cached states (stage `train`).

The frozen layers ran once, in `extract_hidden_states`. Here only the top layers exist; their input is the cached
states. The optimizer works on float32 weights for every precision of the backbone, because at lr 1e-5 an update of
bfloat16 weights rounds to zero. With `precision: mixed`, the layers compute with copies of the weights in the
backbone's precision.
"""

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from lensflow.artifacts import deltas, language_subspaces
from lensflow.artifacts.states import load
from lensflow.artifacts.texts import Text, check_aligned, read_texts
from lensflow.errors import LensflowError
from lensflow.methods.base import Run, Trained, resampled
from lensflow.methods.lens.config import Lens
from lensflow.methods.lens.objective import LensObjective, objective
from lensflow.models.batching import batches_by_length, pad
from lensflow.models.loading import device_of, may_pack, one_line
from lensflow.models.partial_layer import only_rows
from lensflow.models.skeleton import Skeleton, load_top_layers, needs_ids
from lensflow.models.taps import put_states, tap_layers
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.extraction import Extraction, Pooling
from lensflow.schema.setting import Setting
from lensflow.storage import parts
from lensflow.storage.atomic import atomic_path, write_jsonl
from lensflow.storage.digests import canonical_json, digest
from lensflow.storage.journal import used

LOG = logging.getLogger(__name__)
CHECKPOINT_SECONDS = 60.0
BATCH_TOKENS = 512  # of a forward pass without gradients
Pair = tuple[int, str]  # index of the text, target language
Unit = list[Pair]  # what a batch is counted in: one pair, or one text with all of its targets


@dataclass(frozen=True)
class CachedTexts:
    """The states of one language's texts at the input of the trained layers, and the backbone's own states at the top.

    Attributes:
        texts: the N texts.
        tokens: (sum of lengths, d), memory-mapped.
        starts: N+1 offsets into `tokens`.
        top: (N, d) states of the texts at the top of the untouched backbone, in the setting's space.
        ids: N lists of token ids; only for families whose layers read them.
    """

    texts: list[Text]
    tokens: Tensor
    starts: list[int]
    top: Tensor
    ids: Sequence[Sequence[int]] = ()

    def ids_of(self, indices: Sequence[int]) -> list[Sequence[int]]:
        """Return the token ids of some texts; none if no layer reads them."""
        return [self.ids[index] for index in indices] if self.ids else []

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
    loaded = load(states)
    if len(kept) != len(loaded.lengths):
        raise LensflowError(f"{states}: holds other texts than {texts}; delete it and run again")
    if not len(loaded.tokens):
        raise LensflowError(f"{states}: holds no token states to train on; raise extraction.trainable_layers")
    top = loaded.post_norm if space == "post_norm" else loaded.layers[-1]
    return CachedTexts(kept, loaded.tokens, [0, *loaded.lengths.cumsum(0).tolist()], top.float())


def with_ids(cache: CachedTexts, tokenizer: PromptTokenizer, extraction: Extraction) -> CachedTexts:
    """Add the token ids that `extract_hidden_states` made of the texts."""
    most, side = extraction.max_tokens, extraction.truncation_side
    return replace(cache, ids=[tokenizer.shortened(text.prompt, most, side) for text in cache.texts])


class TopStack:
    """The top layers of a decoder, which run on cached states.

    Args:
        skeleton: a decoder with the top layers whose input the cache holds.
        trained: number of layers that train; the layers below them only pass states on.
        space: `post_norm` or `pre_norm`.

    Attributes:
        packing: how texts share a forward pass. `rows`: one after the other in one sequence; the top layer computes
            only the wanted tokens. `whole`: the same, but the top layer computes all tokens. `padded`: one row per
            text.
    """

    def __init__(self, skeleton: Skeleton, trained: int, space: str) -> None:
        self.skeleton, self.decoder, self.space = skeleton, skeleton.decoder, space
        self.depth = len(skeleton.layers)
        self.packing: Literal["rows", "whole", "padded"] = "rows"
        self._weight = next(skeleton.layers[-1].parameters())
        self._first = next(n for n, layer in enumerate(skeleton.layers) if not next(layer.parameters()).is_meta)
        for layer in skeleton.layers[: self.depth - trained]:
            layer.requires_grad_(False)

    def states(
        self, entering: Sequence[Tensor], whole: Sequence[bool], ids: Sequence[Sequence[int]] = ()
    ) -> list[Tensor]:
        """Run n texts in one forward pass.

        Args:
            entering: n tensors (T_i, d).
            whole: n flags: whether all tokens of a text are wanted, or only the last one.
            ids: n lists of token ids, for families whose layers read them.

        Returns:
            n tensors of states at the top, (T_i, d) or (1, d).
        """
        lengths = [len(states) for states in entering]
        if self.packing == "padded":
            padded = nn.utils.rnn.pad_sequence(list(entering), batch_first=True)
            given = {"input_ids": pad(ids)[0]} if ids else {}
            top = self._top(padded, **given)
            return [
                states[:length] if all_of_it else states[length - 1 : length]
                for states, length, all_of_it in zip(top, lengths, whole, strict=True)
            ]
        places = torch.split(torch.arange(sum(lengths)), lengths)
        wanted = [place if all_of_it else place[-1:] for place, all_of_it in zip(places, whole, strict=True)]
        # Positions that start again tell transformers where a text begins; where it does not mask the others then,
        # `choose_packing` does not let texts be packed.
        given = {"position_ids": torch.cat([torch.arange(length) for length in lengths])[None]}
        if ids:
            given["input_ids"] = torch.tensor([token for one in ids for token in one])[None]
        packed, rows = torch.cat(list(entering))[None], torch.cat(wanted).to(self._weight.device)
        if self.packing == "rows":
            with only_rows(self.decoder, rows):
                top = self._top(packed, **given)[0]
        else:
            top = self._top(packed, **given)[0, rows]
        return list(torch.split(top, [len(rows) for rows in wanted]))

    def _top(self, entering: Tensor, **given: Tensor) -> Tensor:
        """Turn states that enter the lowest layer, (n, T, d), into states at the top."""
        entering = entering.to(self._weight.device, self._weight.dtype)
        given = {name: tensor.to(entering.device) for name, tensor in given.items()}
        if "input_ids" not in given:
            given["inputs_embeds"] = entering.clone()  # CTRL scales them in place
        lowest = self.skeleton.layers[self._first]
        handle = lowest.register_forward_pre_hook(
            lambda module, args, kwargs: put_states(entering, args, kwargs), with_kwargs=True
        )
        try:
            with tap_layers(self.decoder, [], [self.depth - 1]) as tapped:
                output: Tensor = self.decoder(**given, use_cache=False).last_hidden_state
        finally:
            handle.remove()
        return output if self.space == "post_norm" else tapped["out", self.depth - 1]

    @torch.no_grad()
    def choose_packing(self, cache: CachedTexts, tolerance: float) -> None:
        """Choose the fastest way to run texts together that gives the same states as running each text alone.

        Args:
            cache: the texts of one language; the two longest are tried.
            tolerance: allowed relative error of a token's state.
        """
        longest = sorted(range(len(cache.texts)), key=cache.length)[-2:]
        entering, ids = [cache.entering(index) for index in longest], cache.ids_of(longest)
        self.packing = "padded"
        whole = [False, True][-len(longest) :]
        expected = [
            self.states([one], [all_of_it], [own] if own else ())[0]
            for one, all_of_it, own in zip(entering, whole, ids or [[]] * len(longest), strict=True)
        ]
        for packing in ("rows", "whole") if may_pack(self.decoder.config) else ():
            self.packing = packing
            try:
                found = self.states(entering, whole, ids)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # a family's own code can fail in any way
                LOG.debug("packing %s: %s", packing, error)
                continue
            errors = [
                ((one - other).norm(dim=1) / other.norm(dim=1)).max()
                for one, other in zip(found, expected, strict=True)
            ]
            if all(error < tolerance for error in errors):
                return
        self.packing = "padded"

    @torch.no_grad()
    def pooled(self, cache: CachedTexts, indices: Sequence[int], pooling: Pooling) -> Tensor:
        """Return the state that represents each text at the top, (len(indices), d), without gradients."""
        result = torch.empty(len(indices), cache.tokens.shape[1])
        for batch in batches_by_length([cache.length(index) for index in indices], BATCH_TOKENS):
            entering = [cache.entering(indices[position]) for position in batch]
            ids = cache.ids_of([indices[position] for position in batch])
            states = self.states(entering, [pooling == "mean"] * len(batch), ids)
            result[batch] = pool_each(states, pooling).float().cpu()
        return result


def pool_each(states: Sequence[Tensor], pooling: Pooling) -> Tensor:
    """Return the last row or the mean of each of n tensors (T_i, d): (n, d)."""
    return torch.stack([rows[-1] if pooling == "last" else rows.mean(dim=0) for rows in states])


def epoch_batches(units: list[Unit], batch_size: int, generator: torch.Generator) -> list[list[Unit]]:
    """Shuffle the units of one epoch into batches. The last batch may be smaller; no unit is dropped."""
    order = torch.randperm(len(units), generator=generator).tolist()
    return [[units[index] for index in order[start : start + batch_size]] for start in range(0, len(order), batch_size)]


def optimizer_groups(trained: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Split trained parameters as HF's Trainer does: norms and biases get no weight decay."""
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


class LensTrainer:
    """One training run. If it stops at any step, it can continue and ends with the same bits.

    Args:
        config: the method.
        setting: languages and space.
        seed: the seed of the order of batches.
        stack: the top layers.
        caches: cached texts of every language of the setting.
        objective: the loss and its terms.
        pooling: what represents a text: the state of its last token, or the mean over its tokens.
    """

    def __init__(
        self,
        config: Lens,
        setting: Setting,
        seed: int,
        stack: TopStack,
        caches: dict[str, CachedTexts],
        objective: LensObjective,
        pooling: Pooling,
    ) -> None:
        from transformers import get_scheduler

        self.config, self.setting, self.seed = config, setting, seed
        self.stack, self.caches, self.objective, self.pooling = stack, caches, objective, pooling
        central = caches[setting.central]
        train = central.of_split("train")[: config.examples]
        self.indices = {
            "train": resampled(train, seed) if config.resample else train,
            "dev": central.of_split("dev"),
        }
        self.units = {split: self._units(indices) for split, indices in self.indices.items()}
        if not self.units["train"]:
            raise LensflowError("the training corpus has no text in its train split")
        self.steps_per_epoch = math.ceil(len(self.units["train"]) / config.batch_size)
        self.steps = self.steps_per_epoch * config.most_epochs  # with `until` perhaps less
        self.judged = "dev" if self.units["dev"] else "train"  # the split that says what training did
        self.trained = {name: p for name, p in stack.decoder.named_parameters() if p.requires_grad}
        # What the optimizer updates: the layers' own weights, or float32 masters of them.
        self.masters = {
            name: p if p.dtype == torch.float32 else nn.Parameter(p.detach().float())
            for name, p in self.trained.items()
        }
        # fused: one call per step instead of several per tensor.
        groups = optimizer_groups(list(self.masters.values()), config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=True)
        # HF's plain "constant" would ignore the warm-up. Where the end is open, no step depends on the most epochs.
        steady = config.schedule == "constant" or config.until is not None
        planned = self.steps if config.until is None else self.steps_per_epoch
        self.scheduler = get_scheduler(
            "constant_with_warmup" if steady else config.schedule,
            self.optimizer,
            num_warmup_steps=math.ceil(config.warmup * planned),
            num_training_steps=planned,
        )
        self.step = 0
        self.started, self.earlier_seconds = time.monotonic(), 0.0
        self.history: list[dict[str, Any]] = []
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}
        self.left = math.inf  # `residual` of the train texts after an epoch, as far as `until` asks for it
        # What the central texts are held to: (N, d) of the untouched backbone.
        everything = range(len(central.texts))
        self._retained = central.top if config.retain_on == pooling else stack.pooled(central, everything, "mean")

    def _units(self, indices: list[int]) -> list[Unit]:
        if self.config.batch_of == "texts":
            return [[(index, language) for language in self.setting.targets] for index in indices]
        return [[(index, language)] for language in self.setting.targets for index in indices]

    def tokens_per_epoch(self) -> int:
        """Count the tokens of one epoch: for each unit, the tokens of its central text and its target texts."""
        central = self.caches[self.setting.central]
        return sum(
            central.length(unit[0][0]) + sum(self.caches[language].length(index) for index, language in unit)
            for unit in self.units["train"]
        )

    def terms(self, batch: list[Unit]) -> dict[str, Tensor]:
        """Return the unweighted loss terms of a batch, summed within each unit and averaged over units."""
        central = self.caches[self.setting.central]
        indices = [unit[0][0] for unit in batch]
        pairs = [pair for unit in batch for pair in unit]
        unit_of = [number for number, unit in enumerate(batch) for _ in unit]
        entering = [central.entering(index) for index in indices]
        entering += [self.caches[language].entering(index) for index, language in pairs]
        pooling, retain_on = self.pooling, self.config.retain_on
        all_targets, all_central = pooling == "mean", "mean" in (pooling, retain_on)
        ids = central.ids_of(indices)
        for index, language in pairs:
            ids += self.caches[language].ids_of([index])
        states = self.stack.states(entering, [all_central] * len(indices) + [all_targets] * len(pairs), ids)
        central_states, target_states = states[: len(indices)], states[len(indices) :]
        terms = self.objective.terms(
            [language for _, language in pairs],
            pool_each(target_states, pooling),
            torch.stack([self.caches[language].top[index] for index, language in pairs]),
            pool_each(central_states, pooling)[unit_of],
            pool_each(central_states, retain_on),
            self._retained[indices],
        )
        targets = len(pairs) / len(batch)
        return terms | {"pull": targets * terms["pull"], "push": targets * terms["push"]}

    def record(self, split: str, terms: dict[str, float], **more: float) -> None:
        """Append a line to the history."""
        loss = float(self.objective.loss({name: torch.tensor(value) for name, value in terms.items()}))
        place = {"step": self.step, "epoch": round(self.step / self.steps_per_epoch, 4), "split": split}
        self.history.append(place | {"loss": loss} | terms | more)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return and record the terms over all dev texts, or over all train texts if there are no dev texts."""
        units = self.units[self.judged]
        sums = dict.fromkeys(("pull", "push", "retain"), 0.0)
        for start in range(0, len(units), self.config.batch_size):
            batch = units[start : start + self.config.batch_size]
            for name, value in self.terms(batch).items():
                sums[name] += float(value) * len(batch)
        means = {name: value / len(units) for name, value in sums.items()}
        if self.judged == "dev":
            self.record("dev", means)
        return means

    def pooled(self, split: str, languages: Iterable[str]) -> dict[str, Tensor]:
        """Return the states that represent the texts of a split at the top, (texts, d) per language."""
        indices = self.indices[split]
        return {language: self.stack.pooled(self.caches[language], indices, self.pooling) for language in languages}

    def residual(self, split: str, states: Mapping[str, Tensor]) -> float | None:
        """Return the share of the way to the push target that is left in a split, from its `pooled` states."""
        references = {language: self.caches[language].top[self.indices[split]] for language in self.setting.targets}
        return self.objective.residual(states, references)

    @property
    def finished(self) -> bool:
        """Return whether all epochs are over, or the residual that `until` asks for is reached."""
        until = self.config.until
        return self.step == self.steps or (until is not None and self.left <= until.residual)

    def run(self, scratch: Path, label: str) -> None:
        """Train to the end, from the checkpoint in `scratch` if one is there.

        Raises:
            LensflowError: the loss or its gradient is not finite; the message names the languages and texts of the
                batch.
        """
        self.load_checkpoint(scratch)
        if self.step == 0:
            self.before = self.evaluate()
        saved = time.monotonic()
        with tqdm(total=self.steps, initial=self.step, desc=label, unit="step", mininterval=1) as progress:
            while not self.finished:
                epoch, offset = divmod(self.step, self.steps_per_epoch)
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                for batch in epoch_batches(self.units["train"], self.config.batch_size, generator)[offset:]:
                    self._train_step(batch)
                    progress.update(1)
                    if self.step % self.steps_per_epoch == 0:
                        self._end_epoch()
                    if time.monotonic() - saved >= CHECKPOINT_SECONDS and not self.finished:
                        self.save_checkpoint(scratch)
                        saved = time.monotonic()

    def _end_epoch(self) -> None:
        if self.config.until is not None:
            # Of the texts that are trained on: dev and test texts have no say in when to stop.
            left = self.residual("train", self.pooled("train", self.setting.targets))
            self.left = 0.0 if left is None else left  # no target of this setting has a λ
            self.history[-1]["residual"] = self.left
        if self.judged == "dev" or self.finished:
            self.after = self.evaluate()

    def _train_step(self, batch: list[Unit]) -> None:
        terms = self.terms(batch)
        loss = self.objective.loss(terms)
        loss.backward()  # type: ignore[no-untyped-call]
        for name, weight in self.trained.items():
            if (master := self.masters[name]) is not weight and weight.grad is not None:
                master.grad, weight.grad = weight.grad.float(), None
        norm = nn.utils.clip_grad_norm_(self.masters.values(), self.config.max_grad_norm)
        if not (loss.isfinite() and norm.isfinite()):
            texts = ", ".join(f"{code} {self.caches[code].texts[index].id}" for unit in batch for index, code in unit)
            raise LensflowError(
                f"step {self.step + 1}: the loss or its gradient is not finite; lower lr or lambda (texts: {texts})"
            )
        lr = self.scheduler.get_last_lr()[0]
        self.optimizer.step()
        self._copy_masters()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.record(
            "train", {name: float(value.detach()) for name, value in terms.items()}, lr=lr, grad_norm=float(norm)
        )

    @torch.no_grad()
    def _copy_masters(self) -> None:
        for name, weight in self.trained.items():
            if (master := self.masters[name]) is not weight:
                weight.copy_(master)

    def _identity(self) -> str:
        """Return what a checkpoint must agree with before training continues from it."""
        parts = [self.config.canonical(), self.setting.canonical(), self.seed, self.steps]
        sums = {language: float(cache.top.double().sum()) for language, cache in self.caches.items()}
        shifts = {language: float(shift.double().norm()) for language, shift in self.objective.shifts.items()}
        return digest([parts, sums, shifts])

    def save_checkpoint(self, scratch: Path) -> None:
        """Write parameters, optimizer state, step and history, atomically and without pickle."""
        tensors = {}
        for name, master in self.masters.items():
            tensors[f"{name}:value"] = master.detach()
            for key, value in self.optimizer.state[master].items():
                tensors[f"{name}:{key}"] = value
        metadata = {
            "identity": self._identity(),
            "step": str(self.step),
            "seconds": str(self.earlier_seconds + time.monotonic() - self.started),
            "history": canonical_json(self.history),
            "before": canonical_json(self.before),
            "scheduler": canonical_json(self.scheduler.state_dict()),
        }
        parts.write(scratch, tensors, metadata)

    def load_checkpoint(self, scratch: Path) -> None:
        """Continue from a checkpoint of the same run. A damaged checkpoint, or one of another run, is ignored."""
        finished = parts.read(scratch)
        if finished is None or finished[1]["identity"] != self._identity():
            return
        tensors, metadata = finished
        for key, value in tensors.items():
            name, _, part = key.partition(":")
            if part == "value":
                self.masters[name].data.copy_(value)
            else:
                # The step, too: a fused AdamW counts it where it works.
                self.optimizer.state[self.masters[name]][part] = value.to(self.masters[name].device)
        self._copy_masters()
        self.step = int(metadata["step"])
        self.earlier_seconds = float(metadata["seconds"])
        self.history = json.loads(metadata["history"])
        self.before = json.loads(metadata["before"])
        self.scheduler.load_state_dict(json.loads(metadata["scheduler"]))
        for group, lr in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = lr


def check_stack(stack: TopStack, caches: dict[str, CachedTexts], pooling: Pooling, tolerance: float) -> None:
    """Check on a few texts that the top layers alone give the same states as the whole backbone.

    Raises:
        LensflowError: the states differ; the message names the language and the text.
    """
    for language, cache in caches.items():
        indices = list(range(min(2, len(cache.texts))))
        states = stack.pooled(cache, indices, pooling)
        error = (states - cache.top[indices]).norm(dim=1) / cache.top[indices].norm(dim=1)
        if not (error < tolerance).all():
            raise LensflowError(
                f"{language}, text {cache.texts[int(error.argmax())].id}: the top layers alone give other states than "
                f"the whole backbone (relative error {float(error.max()):.1e}); this model family is not supported"
            )


def train(run: Run[Lens]) -> Trained:
    """Train one method on one setting.

    The delta holds the trained tensors that differ from the backbone's, as float32 and under the checkpoint's names.
    `history.jsonl` and `dev_states.safetensors` are written beside it.
    """
    assert run.hidden is not None
    config, setting, checkpoint, output = run.method, run.setting, run.backbone.parent, run.output
    extraction, device = run.hidden.extraction, device_of(run.gpus)
    caches = {
        language: read_cache(run.hidden.states[language], run.texts[language], setting.space)
        for language in setting.languages
    }
    check_aligned({language: cache.texts for language, cache in caches.items()})
    backbone_dtype = caches[setting.central].tokens.dtype
    dtype = backbone_dtype if config.precision == "mixed" else torch.float32
    skeleton = load_top_layers(checkpoint, extraction.trainable_layers, dtype, device, extraction.attention)
    if needs_ids(skeleton.decoder):
        tokenizer = PromptTokenizer(checkpoint, run.prompt)
        caches = {language: with_ids(cache, tokenizer, extraction) for language, cache in caches.items()}
    stack = TopStack(skeleton, config.layers, setting.space)
    tolerance = 1e-3 if backbone_dtype == torch.float32 else 5e-2
    with one_line(checkpoint, "run the top layers of"):
        stack.choose_packing(caches[setting.central], tolerance)
        check_stack(stack, caches, extraction.pooling, tolerance)
    subspaces = language_subspaces.load(run.hidden.subspaces, setting)
    trainer = LensTrainer(
        config,
        setting,
        run.seed,
        stack,
        caches,
        objective(config, subspaces, setting.targets, run.seed, [cache.top for cache in caches.values()]),
        extraction.pooling,
    )
    dev = trainer.indices["dev"]
    dev_states = {f"before.{language}": cache.top[dev] for language, cache in caches.items()}
    for language, cache in caches.items():
        chosen = [index for indices in trainer.indices.values() for index in indices]
        used(run.texts[language], [cache.texts[index].line for index in chosen])
    scratch = output.parent / ".training.safetensors"
    trainer.run(scratch, output.parent.parent.name)

    after = trainer.pooled("dev", caches)
    dev_states |= {f"after.{language}": states for language, states in after.items()}
    write_jsonl(output.parent / "history.jsonl", trainer.history)
    with atomic_path(output.parent / "dev_states.safetensors") as temporary:
        save_file(dev_states, temporary)
    trained = skeleton.to_checkpoint({name: master.detach().cpu() for name, master in trainer.masters.items()})
    deltas.write(trained, checkpoint, output)
    scratch.unlink(missing_ok=True)
    parameters = sum(master.numel() for master in trainer.masters.values())
    epochs = trainer.step // trainer.steps_per_epoch
    return Trained(
        trainer.tokens_per_epoch() * epochs,
        parameters,
        trainer.earlier_seconds,
        trainer.residual(trainer.judged, after if dev else trainer.pooled("train", setting.targets)),
        {"before": trainer.objective.shares(trainer.before), "after": trainer.objective.shares(trainer.after)},
    )
