"""The verdicts on the claims of a run: the rows of claims.csv."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from lensflow.mathematics.power import detectable
from lensflow.measures.catalogue import ABSENT, NON_INFERIORITY, NOT_SHOWN, OF_STUDY
from lensflow.presentation.sheets import bounds

if TYPE_CHECKING:  # the Snakefile reads the list of tables, and has no use for pandas
    import pandas as pd

WORSE = "worse"


@dataclass(frozen=True)
class Decision:
    """One endpoint of one claim: a row of claims.csv, whose columns have these names."""

    protocol: str
    backbone: str
    setting: str
    claim: str
    says: str
    method: str
    comparator: str
    benchmark: str
    metric: str
    language: str
    direction: str
    test: str
    margin: float
    seeds: str
    comparator_seeds: str
    questions: int
    reference: float
    value: float
    difference: float
    difference_low: float
    difference_high: float
    p: float
    p_adjusted: float
    endpoint_verdict: str
    verdict: str

    @property
    def place(self) -> tuple[str, str, str]:
        """Backbone, setting and method."""
        return self.backbone, self.setting, self.method

    @property
    def measure(self) -> str:
        """Metric and language."""
        return f"{self.metric}, {self.language}"

    @property
    def estimate(self) -> str:
        """The difference with its interval and p, if they are known."""
        interval = bounds(self.difference_low, self.difference_high, 3)
        p = "" if math.isnan(self.p_adjusted) else f", p = {self.p_adjusted:.2g}"
        return f"{self.difference:+z.3f}{f' {interval}' if interval else ''}{p}"

    @property
    def of_study(self) -> bool:
        """Whether a protocol names the claim. Otherwise it is one of the claims that every run tests."""
        return self.protocol == OF_STUDY

    @property
    def keeps(self) -> bool:
        """Whether the claim is that nothing gets worse."""
        return self.test == NON_INFERIORITY

    @property
    def word(self) -> str:
        """The verdict on the endpoint; "worse" if the opposite difference is shown."""
        worst = self.difference_high if self.direction == "higher" else -self.difference_low
        if worst < 0 and self.endpoint_verdict in ((ABSENT,) if self.keeps else (ABSENT, NOT_SHOWN)):
            return WORSE
        return self.endpoint_verdict

    @property
    def enough(self) -> int:
        """Number of items per language that show a difference as large as the margin with 80 % power; 0 if unknown."""
        half = (self.difference_high - self.difference_low) / 2
        if not half > 0:  # also nan
            return 0
        return math.ceil(self.questions * (detectable(half, 1, 1) / self.margin) ** 2)


def read_decisions(path: Path) -> list[Decision]:
    """Read claims.csv.

    Raises:
        LensflowError: the file is missing, not as its stage wrote it, or not a CSV table.
    """
    from lensflow.storage.frames import input_table

    return decisions_of(input_table(path, ["seeds", "comparator_seeds"]))


def decisions_of(frame: "pd.DataFrame") -> list[Decision]:
    """The rows of claims.csv."""
    names = [field.name for field in fields(Decision)]
    return [Decision(*row) for row in frame[names].itertuples(index=False, name=None)]
