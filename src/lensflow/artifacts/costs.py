"""The file `cost.json`: the cost of a training, and what the training reached."""

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
    """A term of a loss, and its share of the weighted sum; None if that sum is 0."""

    value: NonNegative
    share: Annotated[float, Field(ge=0, le=1)] | None = None


class Cost(Strict):
    """The content of a cost.json; values that were not measured are missing.

    Attributes:
        seconds: includes loading and writing, and the time of killed processes from whose state the last one continued.
        device: `cpu` or `cuda`.
        peak_memory: bytes: the largest resident set of the process, or the largest allocated memory on the GPU.
        tokens: number of tokens that were trained on; a token counts each time it was used.
        trained_parameters: number of trainable parameters.
        energy_joules: energy of the processors since the process began to train, other work on them included.
        residual: share of the way to the push target that is left; see `methods.base.Trained`.
        left_out: number of examples that were left out because they are too long.
        terms: terms of the loss, before and after training.
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
    """Check and write the cost of a training, without values that are None.

    Raises:
        LensflowError: a number is not finite or out of its range; the message names the key.
    """
    cost: Cost = parse(Cost, content, str(path))
    write_json(path, cost.model_dump(exclude_none=True))


def read(path: Path) -> dict[str, Any]:
    """Read and check a file from `write`.

    Raises:
        LensflowError: the file is missing or `write` did not write it; the message names the key.
    """
    content: dict[str, Any] = read_json(path)
    parse(Cost, content, str(path))
    return content
