"""Reading tables after a comparison with their records."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lensflow.errors import LensflowError
from lensflow.storage.integrity import unchanged


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file; all values are text.

    Args:
        path: path of the file.
        columns: required columns.

    Raises:
        LensflowError: the file is missing, not as its stage wrote it, not a CSV table, or lacks a column.
    """
    try:
        frame = pd.read_csv(unchanged(path), dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise LensflowError(f"{path}: no such file; run the workflow") from None
    except (ValueError, OSError) as error:
        raise LensflowError(f"{path}: not a CSV table ({' '.join(str(error).split())}); make it again") from None
    if absent := [column for column in columns if column not in frame.columns]:
        raise LensflowError(f"{path}: no column '{absent[0]}'; make the table again")
    return frame
