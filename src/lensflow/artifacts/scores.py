"""Files with the scores of one checkpoint."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from lensflow.schema.parsing import parse
from lensflow.schema.strict import Strict
from lensflow.schema.types import Language, Name
from lensflow.storage.verified import read_json

# Far beyond any score, and far from where sums of squares overflow.
Finite = Annotated[float, Field(ge=-1e12, le=1e12)]
Weight = Annotated[float, Field(ge=0, le=1e12)]


class _Score(Strict):
    """The result of `evaluation.score`."""

    metric: Name
    n: Annotated[int, Field(ge=0)]
    value: Finite | None
    low: Finite | None
    high: Finite | None
    items: list[Finite | None]
    weights: list[Weight] | None = None


class _Cell(Strict):
    """A benchmark in a language."""

    benchmark: Name
    language: Language
    cell: str
    ids: list[str]
    asked: list[str] | None = None  # the items, where a unit of statistics has several
    scores: list[_Score]
    # Package -> version, and the machine as records name it; not in judged.json.
    made_with: dict[str, str] = Field(default_factory=dict)
    made_on: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        for score in self.scores:
            if len(score.items) != len(self.ids) or len(score.weights or self.ids) != len(self.ids):
                raise ValueError(f"{score.metric}: not one item and weight for each of the {len(self.ids)} ids")
        return self


class _Scores(Strict):
    """A scores.json or judged.json."""

    weights: str
    engine: str
    dtype: str
    cells: list[_Cell]


def read(path: Path) -> dict[str, Any]:
    """Read and check a file from stage `score` or `judge`.

    Raises:
        LensflowError: the file is missing or no such stage wrote it; the message names the key.
    """
    content: dict[str, Any] = read_json(path)
    parse(_Scores, content, str(path))
    return content
