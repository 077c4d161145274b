"""Files with what a training took and what it did: `cost.json`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lensflow.schema.parsing import parse
from lensflow.schema.strict import Strict
from lensflow.schema.types import NonNegative
from lensflow.storage.atomic import write_json
from lensflow.storage.verified import read_json

When = Literal["before", "after"]
Whole = Annotated[int, Field(ge=0)]


class Term(Strict):
    """A term of a loss, and its share of the weighted sum; None where that sum is 0."""

    value: NonNegative
    share: Annotated[float, Field(ge=0, le=1)] | None = None


class Cost(Strict):
    """A cost.json; what was not measured is not in it.

    Attributes:
        seconds: of the whole training, with loading, writing, and the earlier, interrupted runs that it went on from.
        device: `cpu` or `cuda`.
        peak_memory: bytes; the process's largest resident set, or the most that was allocated on the GPU.
        tokens: that were trained on, each as often as it was.
        trained_parameters: numbers that were free to change.
        energy_joules: of the processors, whatever else they did, since the process began to train.
        residual: share of the way to the push target that is left, see `methods.base.Trained`.
        left_out: examples that were too long to learn anything from.
        terms: of the loss, before and after training.
    """

    seconds: NonNegative | None = None
    device: Literal["cpu", "cuda"] | None = None
    peak_memory: NonNegative | None = None
    tokens: Whole | None = None
    trained_parameters: Whole | None = None
    energy_joules: NonNegative | None = None
    residual: NonNegative | None = None
    left_out: Whole | None = None
    terms: dict[When, dict[str, Term]] | None = None


def write(path: Path, content: dict[str, Any]) -> None:
    """Check and write what a training took, without what is None.

    Raises:
        LensflowError: a number is not finite or out of its range; names the key.
    """
    cost: Cost = parse(Cost, content, str(path))
    write_json(path, cost.model_dump(exclude_none=True))


def read(path: Path) -> dict[str, Any]:
    """Read and check what `write` wrote.

    Raises:
        LensflowError: the file is missing or not of its making; names the key.
    """
    content: dict[str, Any] = read_json(path)
    parse(Cost, content, str(path))
    return content
