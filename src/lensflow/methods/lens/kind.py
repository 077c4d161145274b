"""The kind `lens`: `config` holds its keys, `objective` its loss, `training` its loop."""

from lensflow.methods.base import Run, Trained
from lensflow.methods.lens.config import Lens

Config = Lens


def train(run: Run[Lens]) -> Trained:
    """Train the top layers on cached states."""
    from lensflow.methods.lens import training

    return training.train(run)
