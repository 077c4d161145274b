"""Likelihood of held-out prompts of a corpus."""

from typing import Literal

from lensflow.schema.strict import Strict
from lensflow.schema.types import Name


class Likelihood(Strict):
    """Negative log-likelihood of held-out prompts and next-token probability of the target script."""

    kind: Literal["likelihood"]
    corpus: Name = "embedded"
    split: Literal["dev", "test"] = "test"
