"""What all methods share: their configuration, what a training is given, what it says of itself.

Also the kind `base`, the untouched backbone, for which nothing is trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import Field

from lensflow.artifacts.costs import Term, When
from lensflow.schema.backbone import Prompt
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting
from lensflow.schema.strict import Strict
from lensflow.schema.types import Count, Language, NonNegative, Positive


class Method(Strict):
    """What is done to a backbone.

    A kind is a module of `lensflow.methods`, or one of the user's own by its path. It has a subclass of this class,
    called `Config`, whose keys are the method's, and a function `train`, which gets a `lensflow.methods.base.Run`.
    """

    kind: str
    needs_states: ClassVar[bool] = False  # whether it works on the setting's hidden states and subspaces
    seeded: ClassVar[bool] = True  # whether a run's seed makes a difference
    told_language: ClassVar[bool] = False  # whether it is told the language of a prompt when it is evaluated

    def check(self, extraction: "Extraction", settings: Mapping[str, Setting]) -> None:
        """Check what depends on other sections, for the settings that the method runs in.

        Raises:
            ValueError: with a text that begins with the key of the method that is wrong.
        """

    def check_items(self, items: Sequence[Mapping[str, Any]], setting: Setting) -> None:
        """Check the items of the setting's training corpus, dictionaries with `id`, `prompt` and perhaps `answer`.

        Raises:
            ValueError: as `check`.
        """


class Pushing(Method):
    """What methods have in common that push states of the target languages along directions (paper, section 3.2)."""

    needs_states: ClassVar[bool] = True

    strength: NonNegative | dict[Language, NonNegative] = Field(default=1.0, alias="lambda")
    """λ, the length of the push: one number, or one per language (paper, section 3.2)."""
    lambda_unit: Literal["absolute", "state_norm"] = "absolute"
    """`absolute`: the push is λδ (paper). `state_norm`: λ‖h‖ δ/‖δ‖, so that λ is relative to the mean state's
    length."""

    def strength_of(self, language: str) -> float:
        """λ of one target language."""
        return self.strength[language] if isinstance(self.strength, dict) else self.strength

    def check(self, extraction: "Extraction", settings: Mapping[str, Setting]) -> None:
        """Check that every target has a λ."""
        for name, setting in settings.items():
            if isinstance(self.strength, dict) and (missing := set(setting.targets) - set(self.strength)):
                raise ValueError(f"lambda: no value for {sorted(missing)[0]} of setting {name}")


class Lora(Strict):
    """Low-rank adapters of every linear layer but the output layer, merged into the weights at the end (peft)."""

    rank: Count = 8
    """Rank of the adapters. Source: peft."""
    alpha: Positive = 16.0
    """Scale of the adapters. Source: Alpaca-LoRA."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout before the adapters. Source: Alpaca-LoRA."""


class FineTuning(Method):
    """What methods have in common that train the whole network on texts; HF's Trainer does the training.

    `alpaca` is Stanford Alpaca, whose values the published code of QAlign (Zhu et al., 2024) has, too.
    """

    examples: Count | None = None
    """Number of items per language, the first ones of the train split. The default is all."""
    max_tokens: Annotated[int, Field(ge=2)] = 512
    """Longest example in tokens; longer ones lose their end. Source: Alpaca."""
    lora: Lora | None = Lora()
    """Adapters on every linear layer but the output layer; null trains all weights."""
    lr: Positive = 2e-4
    """Learning rate of AdamW. Source for adapters: QLoRA (Dettmers et al., 2023); for all weights 2e-5 (Alpaca)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
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
    """Precision of the computation; the weights are float32 in both cases."""

    def check_items(self, items: Sequence[Mapping[str, Any]], setting: Setting) -> None:
        """Check that there are as many examples as asked for."""
        if self.examples is not None and self.examples > len(items):
            raise ValueError(
                f"examples: {self.examples} is more than the {len(items)} items to train on in corpus "
                f"'{setting.training}'; lower it"
            )


M = TypeVar("M", bound=Method)


@dataclass(frozen=True)
class StateFiles:
    """What the stages between the backbone and the training wrote, for the languages of a setting.

    Attributes:
        extraction: how the states were made.
        subspaces: what `fit_subspaces` wrote.
        states: for each language, what `extract_hidden_states` wrote.
    """

    extraction: Extraction
    subspaces: Path
    states: Mapping[str, Path]


@dataclass(frozen=True)
class Run(Generic[M]):
    """One training: a method with a seed, on one backbone and setting.

    Attributes:
        method: the configuration.
        setting: languages, and which of them is central.
        seed: of all that is random.
        prompt: the backbone's prompt format.
        backbone: manifest of its checkpoint, whose files lie beside it.
        texts: for each language, what `pair_data` wrote of the training corpus.
        output: `delta.safetensors`, the tensors that differ from the backbone's (`lensflow.artifacts.deltas.write`). A
            method may write `history.jsonl`, `dev_states.safetensors` and `intervention.safetensors`
            (`lensflow.artifacts.interventions`) beside it; if it does not, these files are empty.
        hidden: only for methods that say `needs_states`.
        gpus: that the stage was given; 0 for none.
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
    """What a training took.

    Attributes:
        tokens: real tokens that were trained on, each as often as it was.
        parameters: numbers that were free to change.
        earlier_seconds: seconds spent by earlier, interrupted runs of this training.
        residual: share of the way to the push target that is left, ‖P_s(h_t) − P_s(h⁰_t) − λδ‖ / ‖λδ‖: 1 if untouched,
            0 if fully displaced. It is the mean over targets and dev texts, or train texts if there are no dev texts;
            None for methods that do not push.
        terms: of the loss by name, before and after training, over the same texts; empty for methods without terms.
        left_out: examples that were too long to learn anything from.
    """

    tokens: int
    parameters: int
    earlier_seconds: float = 0.0
    residual: float | None = None
    terms: Mapping[When, Mapping[str, Term]] = field(default_factory=dict)
    left_out: int = 0


def check_space(kind: str, settings: Mapping[str, Setting]) -> None:
    """Check that a method which changes states after the final norm is given directions or subspaces of these.

    Raises:
        ValueError: see `lensflow.methods.base.Method.check`.
    """
    for name, setting in settings.items():
        if setting.space != "post_norm":
            raise ValueError(
                f"kind: {kind} changes states after the final norm, setting {name} has space: {setting.space}; "
                "set it to post_norm"
            )


class Base(Method):
    """The untouched backbone."""

    seeded: ClassVar[bool] = False

    kind: Literal["base"]


Config = Base
