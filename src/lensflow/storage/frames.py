"""Reading tables after a comparison with their records."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lensflow.errors import LensflowError
from lensflow.storage.integrity import checked, unchanged


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file to show it; all values are text.

    Args:
        path: path of the file.
        columns: required columns.

    Raises:
        LensflowError: the file is missing, not as its stage wrote it, not a CSV table, or lacks a column.
    """
    frame = _read(path, unchanged, dtype=str, keep_default_na=False)
    if absent := [column for column in columns if column not in frame.columns]:
        raise LensflowError(f"{path}: no column '{absent[0]}'; make the table again")
    return frame


def input_table(path: Path, text: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV file that another stage wrote, as an input of this stage.

    Args:
        path: path of the file.
        text: columns whose values are text, even if they look like numbers.

    Raises:
        LensflowError: the file is missing, not as its stage wrote it, or not a CSV table.
    """
    return _read(path, checked, dtype=dict.fromkeys(text, str))


def _read(path: Path, compare: Callable[[Path], Path], **options: Any) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pd.read_csv(compare(path), **options)
    except FileNotFoundError:
        raise LensflowError(f"{path}: no such file; check the path, or run the workflow") from None
    except (ValueError, OSError) as error:
        raise LensflowError(f"{path}: not a CSV table ({' '.join(str(error).split())}); make it again") from None
    return frame
