"""The time of the stages before a training."""

from pathlib import Path

from lensflow.errors import LensflowError
from lensflow.provenance.results import inside
from lensflow.storage.integrity import record_of

PREPARING = ("extract_hidden_states", "fit_subspaces")  # what methods that work on hidden states need before


def prepared_seconds(trained: Path) -> float | None:
    """Return the time for extracting the hidden states and fitting the subspaces that a training read; None if unknown.

    Args:
        trained: a file that the training wrote.
    """
    seconds: dict[Path, float] = {}
    files = [trained]
    for file in files:  # which grows by what was read for it
        try:
            found = record_of(file)
        except LensflowError:
            found = None
        if found is None:
            return None
        record, content = found
        prepares = content["stage"] in PREPARING
        if prepares:
            seconds[record] = content["seconds"]
        if prepares or file == trained:
            read = dict.fromkeys(inside(record, name) for name in content["inputs"])
            files += [path for path in read if path not in files]
    return sum(seconds.values())
