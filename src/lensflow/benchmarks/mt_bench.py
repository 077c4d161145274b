"""Two-turn questions whose answers a judge rates."""

from typing import Literal

from lensflow.schema.dataset import FromDataset
from lensflow.schema.decoding import Decoding
from lensflow.schema.judge import Judge
from lensflow.schema.types import NonNegative


class MtBench(FromDataset, Decoding):
    """Two-turn questions whose answers a judge rates from 1 to 10 (MT-Bench: Zheng et al., 2023)."""

    kind: Literal["mt_bench"]
    judge: Judge
    # Sampling temperature of some categories, `temperature` else; Zheng et al.'s own.
    temperatures: dict[str, NonNegative] = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}

    def decoding(self, category: str) -> Decoding:
        """How answers to questions of a category are generated."""
        settings = {name: getattr(self, name) for name in Decoding.model_fields}
        return Decoding(**settings | {"temperature": self.temperatures.get(category, self.temperature)})
