"""Lens: language subspace manipulation (arXiv 2410.04407, section 3.2), its ablations and its controls."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lensflow.methods.base import Draw, Pushing, check_derangement, check_examples
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting
from lensflow.schema.strict import Strict
from lensflow.schema.types import Count, NonNegative, Positive


class LensWeights(Strict):
    """Weights of the three terms of the loss; a term of weight 0 is ablated."""

    pull: NonNegative = 1.0
    """Weight of the pull term; 0 ablates it."""
    push: NonNegative = 1.0
    """Weight of the push term; 0 ablates it."""
    retain: NonNegative = 1.0
    """Weight of the retain term; 0 ablates it."""


class Until(Strict):
    """Trains epoch by epoch until the push is nearly done, or until the epochs are over."""

    residual: Annotated[float, Field(gt=0, lt=1)]
    """Training stops when this share of the way to the push target, or less, is left: the mean over train texts and
    targets, 1 for an untouched model. It is computed after every epoch."""
    epochs: Count
    """Largest number of epochs."""


class Lens(Pushing):
    """Training moves the states of the top layers in the language subspaces (paper, section 3.2)."""

    kind: Literal["lens"]
    layers: Count = 2
    """Number of top decoder layers that train. Published code: the last 1-2 of 32."""
    direction: Literal["own", "random", "permuted", "negative", "common", "rotated", "covariance", "deranged"] = "own"
    """The direction along which a target is pushed: its `own` δ (paper), or a control. `random`: a random one.
    `permuted`: the next target's δ. `negative`: -δ. `common`: the mean δ of all targets. `rotated`: δ after one
    rotation that is the same for all languages. `covariance`: a random vector with the covariance of the states.
    `deranged`: the δ of another target."""
    draw: Draw | None = None
    """Number of the random draw for `random`, `rotated`, `covariance` and `deranged`. The default is the run's seed, so
    each seed has its own draw."""
    weights: LensWeights = LensWeights()
    """Weights of the terms of the loss."""
    retain_on: Literal["last", "mean"] = "last"
    """States of the central language that are retained: of the `last` token, or the `mean` over tokens
    (published code)."""
    reduction: Literal["sum", "mean"] = "mean"
    """How the d dimensions of a term are combined. Paper: the squared norm (`sum`). Published code: `mean`."""
    lr: Positive = 1e-5
    """Learning rate of AdamW. Source: published code."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Schedule of the learning rate; with `until` it is always constant. Source: published code."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Warm-up as a share of the steps; with `until`, as a share of one epoch's steps. Source: published code."""
    weight_decay: NonNegative = 0.1
    """Weight decay. Source: published code."""
    max_grad_norm: Positive = 1.0
    """Gradient clipping norm. Source: published code, which keeps the default of HF's Trainer."""
    precision: Literal["float32", "mixed"] = "float32"
    """Precision of the trained layers: `float32`, or the backbone's own precision with float32 master weights (`mixed`;
    published code: bfloat16 under DeepSpeed)."""
    examples: Count | None = None
    """Number of items to train on; the first ones are taken. The default is all."""
    resample: bool = False
    """Draws as many items as there are, with replacement, once per seed. The spread over seeds then also shows how much
    a result depends on the items, not only on their order."""
    epochs: Count = 1
    """Number of epochs. Source: paper."""
    until: Until | None = None
    """Trains until Lens is applied, instead of for a fixed number of epochs."""
    batch_size: Count = 8
    """Units per step. Published code: 1 per step, 8 steps accumulated."""
    batch_of: Literal["pairs", "texts"] = "pairs"
    """The unit of a batch: (text, target) `pairs`, or `texts` with all of their targets (published code)."""

    @property
    def most_epochs(self) -> int:
        """Number of epochs; with `until`, the largest number."""
        return self.epochs if self.until is None else self.until.epochs

    @model_validator(mode="after")
    def _until_can_be_reached(self) -> Self:
        if self.until is not None and self.epochs != 1:
            raise ValueError("epochs: has no effect with until; set until.epochs and drop this key")
        strengths = self.strength.values() if isinstance(self.strength, dict) else [self.strength]
        if self.until is not None and not (self.weights.push and any(strengths)):
            raise ValueError("until: nothing is pushed; raise weights.push and lambda, or drop this key")
        return self

    def check(self, extraction: Extraction, settings: Mapping[str, Setting]) -> None:
        """Check that extraction keeps the states that training needs, and that every target has a λ and a direction."""
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
        if self.direction == "deranged":
            check_derangement(self.draw or 0, settings)

    def check_items(self, items: Sequence[Mapping[str, Any]], setting: Setting) -> None:
        """Check that the corpus has as many examples as the method asks for."""
        check_examples(self.examples, items, setting)
