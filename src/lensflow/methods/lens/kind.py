"""The kind `lens`: `config` holds its keys, `objective` its loss, `training` its loop."""

from lensflow.methods.base import Run, Trained
from lensflow.methods.lens.config import Lens

Config = Lens


def train(run: Run[Lens]) -> Trained:
    """Train the top layers on cached states."""
    from lensflow.methods.lens import training
    from lensflow.models.loading import device_of

    assert run.hidden is not None
    return training.train(
        run.method,
        run.setting,
        run.seed,
        run.hidden.extraction,
        run.backbone.parent,
        run.hidden.subspaces,
        run.hidden.states,
        run.texts,
        run.output,
        device_of(run.gpus),
    )
