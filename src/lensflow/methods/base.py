"""What all methods share: the configuration, the inputs of a training, and what a training reports about itself.

This module also holds the kind `base`, the untouched backbone. Nothing is trained for `base`.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from lensflow.artifacts.costs import Term, When
from lensflow.errors import LensflowError
from lensflow.schema.backbone import Prompt
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting
from lensflow.schema.strict import Strict
from lensflow.schema.types import Count, Language, NonNegative, Positive

T = TypeVar("T")


class Method(Strict):
    """A method: what is done to a backbone.

    A kind of method is a module of `lensflow.methods`, or the user's own module, named by its import path. The module
    has a subclass of this class, called `Config`. Its keys are the keys of the method. The module also has a function
    `train`, which gets a `lensflow.methods.base.Run`.
    """

    kind: str
    needs_states: ClassVar[bool] = False  # whether it works on the setting's hidden states and subspaces
    seeded: ClassVar[bool] = True  # whether a run's seed makes a difference
    told_language: ClassVar[bool] = False  # whether it is told the language of a prompt when it is evaluated
    of_blocks: ClassVar[tuple[str, ...]] = ()  # its keys that name blocks of the backbone

    def check_depth(self, depth: int) -> None:
        """Check that a backbone with `depth` blocks has all blocks that the method names.

        Raises:
            LensflowError: a block is missing; the message begins with the key.
        """
        for key in self.of_blocks:
            if (named := getattr(self, key)) is not None:
                blocks_of(named, depth, key)

    def check_installed(self) -> None:
        """Check that the packages for this training are installed, if they are not part of every environment.

        Raises:
            LensflowError: a package is missing; the message begins with the key that needs the package.
        """

    def check(self, extraction: Extraction, settings: Mapping[str, Setting]) -> None:
        """Check what depends on other sections, for the settings that the method runs in.

        Raises:
            ValueError: a key of the method is wrong; the message begins with the key.
        """

    def check_items(self, items: Sequence[Mapping[str, Any]], setting: Setting) -> None:
        """Check the items of the setting's training corpus.

        Items are dictionaries with `id`, `prompt` and sometimes `answer`.

        Raises:
            ValueError: as in `check`.
        """


class Pushing(Method):
    """The keys of methods that push the states of target languages along directions (paper, section 3.2)."""

    needs_states: ClassVar[bool] = True

    strength: NonNegative | dict[Language, NonNegative] = Field(default=1.0, alias="lambda")
    """λ, the length of the push: one number, or one per language (paper, section 3.2)."""
    lambda_unit: Literal["absolute", "state_norm"] = "absolute"
    """`absolute`: the push is λδ (paper). `state_norm`: λ‖h‖ δ/‖δ‖, so λ is a share of the length of the mean state."""

    def strength_of(self, language: str) -> float:
        """λ of one target language."""
        return self.strength[language] if isinstance(self.strength, dict) else self.strength

    def check(self, extraction: Extraction, settings: Mapping[str, Setting]) -> None:
        """Check that every target has a λ."""
        for name, setting in settings.items():
            if isinstance(self.strength, dict) and (missing := set(setting.targets) - set(self.strength)):
                raise ValueError(f"lambda: no value for {sorted(missing)[0]} of setting {name}")


Draw = Annotated[int, Field(ge=0)]


def check_derangement(draw: int, settings: Mapping[str, Setting]) -> None:
    """Check that each setting has enough derangements of its target languages.

    Raises:
        ValueError: as in `Method.check`.
    """
    for name, setting in settings.items():
        there = round(math.factorial(len(setting.targets)) / math.e)
        if draw >= there:
            raise ValueError(
                f"direction: deranged has {there} draws for the {len(setting.targets)} target languages of setting "
                f"{name}; lower draw, or use another setting or direction"
            )


class Controlled(Method):
    """The keys of methods that add one direction per language, and that can add a control direction instead."""

    direction: Literal["own", "negative", "common", "rotated", "covariance", "deranged"] = "own"
    """The direction that is added: the language's `own` δ, or a control. `negative`: -δ. `common`: the mean δ of all
    targets. `rotated`: δ after one rotation that is the same for all languages. `covariance`: a random vector with the
    covariance of the states. `deranged`: the δ of another target."""
    draw: Draw = 0
    """Number of the random draw for `rotated`, `covariance` and `deranged`. Another number gives another direction."""

    def check(self, extraction: Extraction, settings: Mapping[str, Setting]) -> None:
        """Check that there are as many derangements as asked for."""
        super().check(extraction, settings)
        if self.direction == "deranged":
            check_derangement(self.draw, settings)


_Block = Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)]
_Layers = Literal["all"] | _Block | Annotated[list[_Block], Field(min_length=2, max_length=2)]


def _told(wanted: str) -> WrapValidator:
    """Report in one message which values a key allows, instead of only the first type that pydantic tries."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(f"must be {wanted}, not {value!r}") from None

    return WrapValidator(validate)


_ONE = "a block's number from 0 or a share of the depth between 0 and 1"
Block = Annotated[_Block, _told(_ONE)]
Layers = Annotated[_Layers, _told(f"'all', {_ONE}, or a list of the first and the last block")]


def blocks_of(layers: Layers, depth: int, key: str = "layers") -> range:
    """Return the numbers of the blocks that a key of a method names, in a model with `depth` blocks.

    Raises:
        LensflowError: the model does not have such a block, or the first block lies above the last one.
    """
    if layers == "all":
        return range(depth)
    ends = layers if isinstance(layers, list) else [layers, layers]
    first, last = (int(end * depth) if isinstance(end, float) else end for end in ends)
    if not first <= last < depth:
        raise LensflowError(
            f"{key}: {layers} names blocks {first} to {last}, but the model has {depth}; name blocks from 0 to "
            f"{depth - 1}, the first one first"
        )
    return range(first, last + 1)


class Injecting(Method):
    """The keys of methods that move states towards the wanted language, away from the prompt's or the central language.

    With `away_from: prompt`, as in the publications, nothing changes if the prompt is already in the wanted language.
    With `central`, such a prompt's states are moved as well, away from the central language.
    """

    seeded: ClassVar[bool] = False
    told_language: ClassVar[bool] = True

    away_from: Literal["central", "prompt"] = "central"
    """The language that states move away from: the `central` language, or the prompt's (`prompt`, as in the
    publications). With `prompt`, nothing changes if the prompt is in the wanted language."""

    def pairs(self, setting: Setting) -> Iterator[tuple[tuple[str, str], str]]:
        """Pair each (prompt language, wanted language) with the language to move away from."""
        for source in setting.languages:
            for wanted in setting.languages:
                central = self.away_from == "central" and wanted != setting.central
                away = setting.central if central else source
                if away != wanted:
                    yield (source, wanted), away


def resampled(items: Sequence[T], seed: int) -> list[T]:
    """Draw as many items as there are, with replacement, and keep their order.

    Equal numbers of items give equal draws.
    """
    return [items[place] for place in sorted(random.Random(seed).choices(range(len(items)), k=len(items)))]


class Lora(Strict):
    """Low-rank adapters (peft) on every linear layer except the output layer.

    They are merged into the weights at the end.
    """

    rank: Count = 8
    """Rank of the adapters. Source: peft."""
    alpha: Positive = 16.0
    """Scale of the adapters. Source: Alpaca-LoRA."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout before the adapters. Source: Alpaca-LoRA."""


class FineTuning(Method):
    """The keys of methods that train the whole network on texts with HF's Trainer.

    `alpaca` is Stanford Alpaca. The published code of QAlign (Zhu et al., 2024) has the same values.
    """

    examples: Count | None = None
    """Number of items per language, the first ones of the train split. The default is all."""
    resample: bool = False
    """Draws as many items as there are, with replacement, once per seed. The spread over seeds then also shows how much
    a result depends on the items, not only on their order."""
    max_tokens: Annotated[int, Field(ge=2)] = 512
    """Longest example in tokens; the end of longer ones is cut. Source: Alpaca."""
    lora: Lora | None = Lora()
    """Adapters on every linear layer except the output layer; null trains all weights."""
    layers: Count | None = None
    """Number of top blocks that train, as in Lens; everything else is frozen. The default trains all weights."""
    lr: Positive = 2e-4
    """Learning rate of AdamW. Source for adapters: QLoRA (Dettmers et al., 2023); for all weights 2e-5 (Alpaca)."""
    schedule: Literal["cosine", "linear", "inverse_sqrt", "constant"] = "cosine"
    """Schedule of the learning rate. Source: Alpaca."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Warm-up as a share of the steps. Source: Alpaca."""
    weight_decay: NonNegative = 0.0
    """Weight decay. Source: Alpaca and HF's Trainer."""
    max_grad_norm: Positive = 1.0
    """Gradient clipping norm. Source: HF's Trainer."""
    epochs: Count = 3
    """Number of epochs. Source: Alpaca and HF's Trainer."""
    batch_size: Count = 8
    """Examples per step. Source: HF's Trainer."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the computation. Weights that train are float32 in both cases."""
    frozen_weights: Literal["float32", "bfloat16", "nf4"] = "float32"
    """Format of the frozen weights below the adapters. `bfloat16` halves their memory. `nf4` is QLoRA (Dettmers et al.,
    2023): 4 bits per number of every layer with adapters, by bitsandbytes. Adapters are merged into the backbone's own
    weights in all cases."""
    gradient_checkpointing: bool = False
    """Keeps only the input of each block for the backward pass and computes the rest again. Activations need far less
    memory, the time grows by about a third, and the result is the same (Chen et al., 2016)."""
    gpus: Count = 1
    """Number of GPUs that share each batch (accelerate). Each GPU holds the whole backbone. The update equals the
    update on a single GPU, except for rounding and for the random draws of dropout. `resources.gpus` of the backbone
    must be the same number."""

    def check_depth(self, depth: int) -> None:
        """Check that the model has enough blocks to train, and all blocks that the method names."""
        super().check_depth(depth)
        if self.layers is not None and self.layers > depth:
            raise LensflowError(f"layers: {self.layers} is more than the model's {depth} blocks; lower it")

    def check_installed(self) -> None:
        """Check that bitsandbytes is installed if weights are kept in 4 bits."""
        if self.frozen_weights == "nf4" and find_spec("bitsandbytes") is None:
            raise LensflowError(
                "frozen_weights: nf4 needs bitsandbytes, which is not installed; run make setup LOCK=cuda or "
                "pip install bitsandbytes, or set frozen_weights: bfloat16"
            )

    @model_validator(mode="after")
    def _few_bits_are_frozen(self) -> Self:
        if self.frozen_weights != "float32" and self.lora is None:
            raise ValueError(f"frozen_weights: {self.frozen_weights} needs adapters on top; set lora, or drop this key")
        if self.frozen_weights == "bfloat16" and self.precision != "bfloat16":
            raise ValueError("frozen_weights: bfloat16 is computed in bfloat16; set precision: bfloat16")
        return self

    @model_validator(mode="after")
    def _layers_train_whole(self) -> Self:
        if self.layers is not None and self.lora is not None:
            raise ValueError("layers: trains whole blocks; set lora: null, or drop this key")
        return self

    def check_items(self, items: Sequence[Mapping[str, Any]], setting: Setting) -> None:
        """Check that the corpus has as many examples as the method asks for."""
        check_examples(self.examples, items, setting)


def check_examples(examples: int | None, items: Sequence[Mapping[str, Any]], setting: Setting) -> None:
    """Check that a corpus has as many items to train on as a method asks for.

    Raises:
        ValueError: the corpus has fewer items.
    """
    if examples is not None and examples > len(items):
        raise ValueError(
            f"examples: {examples} is more than the {len(items)} items to train on in corpus '{setting.training}'; "
            "lower it"
        )


M = TypeVar("M", bound=Method)


@dataclass(frozen=True)
class StateFiles:
    """The results of the stages before training, for the languages of one setting.

    Attributes:
        extraction: the configuration of the extraction.
        subspaces: the file that `fit_subspaces` wrote.
        states: for each language, the file that `extract_hidden_states` wrote.
    """

    extraction: Extraction
    subspaces: Path
    states: Mapping[str, Path]


@dataclass(frozen=True)
class Run(Generic[M]):
    """One training: a method with a seed, on one backbone and one setting.

    Attributes:
        method: the configuration.
        setting: the languages, and which of them is the central one.
        seed: the seed of everything random.
        prompt: the backbone's prompt format.
        backbone: the manifest of the backbone's checkpoint; the files of the checkpoint lie beside the manifest.
        texts: for each language, the file that `pair_data` wrote for the training corpus.
        output: the path of `delta.safetensors`, the tensors that differ from the backbone's tensors
            (`lensflow.artifacts.deltas.write`). A method may also write `history.jsonl`, `dev_states.safetensors` and
            `intervention.safetensors` (`lensflow.artifacts.interventions`) beside it. If a method does not write one of
            these files, the file is empty.
        hidden: the hidden states; only for methods that set `needs_states`.
        gpus: the number of GPUs that the stage was given; 0 for none.
    """

    method: M
    setting: Setting
    seed: int
    prompt: Prompt
    backbone: Path
    texts: Mapping[str, Path]
    output: Path
    hidden: StateFiles | None = None
    gpus: int = 0


@dataclass(frozen=True)
class Trained:
    """The cost of a training, and what it reached.

    Attributes:
        tokens: number of real tokens that were trained on; a token counts each time it was used.
        parameters: number of trainable parameters.
        earlier_seconds: seconds spent by earlier, interrupted runs of this training.
        residual: the share of the way to the push target that is left, ‖P_s(h_t) − P_s(h⁰_t) − λδ‖ / ‖λδ‖. The share is
            1 if the states did not move and 0 if they reached the target. It is the mean over targets and dev texts, or
            over train texts if there are no dev texts. It is None for methods that do not push.
        terms: the terms of the loss by name, before and after training, over the same texts; empty for methods without
            terms.
        left_out: number of examples that were left out because they are too long.
    """

    tokens: int
    parameters: int
    earlier_seconds: float = 0.0
    residual: float | None = None
    terms: Mapping[When, Mapping[str, Term]] = field(default_factory=dict)
    left_out: int = 0


def check_space(kind: str, settings: Mapping[str, Setting]) -> None:
    """Check that a method which changes states after the final norm gets directions or subspaces of such states.

    Raises:
        ValueError: as in `lensflow.methods.base.Method.check`.
    """
    for name, setting in settings.items():
        if setting.space != "post_norm":
            raise ValueError(
                f"kind: {kind} changes states after the final norm, setting {name} has space: {setting.space}; "
                "set it to post_norm"
            )


class Base(Method):
    """The untouched backbone.

    All methods are compared with it. Nothing is trained, nothing changes while the model answers, and it is told no
    language.
    """

    seeded: ClassVar[bool] = False

    kind: Literal["base"]


Config = Base
