"""CLaS-Bench: open questions that a model should answer in another language."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from lensflow.benchmarks.dataset_generation import FromPrompts
from lensflow.schema.judge import Judge


class ClasBench(FromPrompts):
    """Questions in one language, answers in another; a judge rates their relevance (CLaS-Bench, arXiv 2601.08331).

    The authors identify the language of an answer with fastText's lid218e; here the outcome's detectors do.
    """

    kind: Literal["clas_bench"]
    judged: ClassVar[str] = "relevance"
    judge: Judge
    """The model that rates answers."""

    def narrowed(self, languages: Sequence[str]) -> dict[str, Any]:
        """Return the configuration with these languages. The judge is left out, because no answer depends on it."""
        return super().narrowed(languages) | {"judge": Judge(model="").canonical()}


Config = ClasBench
