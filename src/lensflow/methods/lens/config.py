"""Lens: language subspace manipulation (arXiv 2410.04407, section 3.2), its ablations and its controls."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lensflow.methods.base import Pushing
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting
from lensflow.schema.strict import Strict
from lensflow.schema.types import Count, NonNegative, Positive


class LensWeights(Strict):
    """Weights of the three terms of the loss; a term of weight 0 is ablated."""

    pull: NonNegative = 1.0
    push: NonNegative = 1.0
    retain: NonNegative = 1.0


class Until(Strict):
    """Training goes on, epoch by epoch, until the push has got where it should or the epochs are over."""

    # Of the way to the push target, mean over train texts and targets (1 = untouched); looked at after every epoch.
    residual: Annotated[float, Field(gt=0, lt=1)]
    epochs: Count  # at most


class Lens(Pushing):
    """Language subspace manipulation (paper, section 3.2)."""

    kind: Literal["lens"]
    layers: Count = 2  # top decoder layers that train; code: the last 1-2 of 32
    # Where a target is pushed: along its own δ (paper), or, as controls, along a random direction or another target's.
    direction: Literal["own", "random", "permuted"] = "own"
    weights: LensWeights = LensWeights()
    retain_on: Literal["last", "mean"] = "last"  # code: mean over token positions
    reduction: Literal["sum", "mean"] = "mean"  # over d; paper: the squared norm (sum); code: mean
    lr: Positive = 1e-5  # code
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # code; with `until` always constant
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05  # share of the steps, with `until` of one epoch's; code
    weight_decay: NonNegative = 0.1  # code
    max_grad_norm: Positive = 1.0  # code: the default of HF's Trainer
    # Of the trained layers; mixed: the backbone's, with float32 masters (code: bfloat16 under DeepSpeed).
    precision: Literal["float32", "mixed"] = "float32"
    examples: Count | None = None  # the first so many items to train on; null: all
    epochs: Count = 1  # paper
    until: Until | None = None  # instead of `epochs`
    batch_size: Count = 8  # code: 1 a step, 8 steps accumulated
    batch_of: Literal["pairs", "texts"] = "pairs"  # (text, target) pairs, or texts with all of their targets (code)

    @property
    def most_epochs(self) -> int:
        """How many epochs there are, or with `until` may be."""
        return self.epochs if self.until is None else self.until.epochs

    @model_validator(mode="after")
    def _until_can_be_reached(self) -> Self:
        if self.until is not None and self.epochs != 1:
            raise ValueError("epochs: has no effect beside until; set until.epochs and drop this key")
        strengths = self.strength.values() if isinstance(self.strength, dict) else [self.strength]
        if self.until is not None and not (self.weights.push and any(strengths)):
            raise ValueError("until: nothing is pushed; raise weights.push and lambda, or drop this key")
        return self

    def check(self, extraction: Extraction, settings: Mapping[str, Setting]) -> None:
        """Check that the states which training needs are kept, and that every target has a λ and a direction."""
        super().check(extraction, settings)
        if self.layers > extraction.trainable_layers:
            raise ValueError(
                f"layers: {self.layers} is more than extraction.trainable_layers ({extraction.trainable_layers}); "
                "raise that key"
            )
        if extraction.pooling == "mean" and self.retain_on == "last":
            raise ValueError("retain_on: last needs extraction.pooling: last; set it to mean")
        for name, setting in settings.items():
            if self.direction == "permuted" and len(setting.targets) < 2:
                raise ValueError(
                    f"direction: permuted needs at least two target languages, setting {name} has one; "
                    "use another setting or direction"
                )
