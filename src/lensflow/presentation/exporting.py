"""A checkpoint that can be taken home, with its model card."""

import tempfile
from pathlib import Path

from lensflow.artifacts import checkpoint, interventions
from lensflow.artifacts import export as exporting
from lensflow.errors import LensflowError
from lensflow.models import logit_bias
from lensflow.presentation.model_card import model_card
from lensflow.storage.atomic import write_text


def export(backbone: Path, delta: Path, folder: Path) -> str:
    """Put a backbone and a delta together in a new folder, links resolved.

    Args:
        backbone: manifest of the backbone's checkpoint.
        delta: `delta.safetensors`, with what else `train` wrote beside it.
        folder: new folder for the checkpoint.

    Returns:
        One line: the folder, and how it is used.

    Raises:
        LensflowError: the delta is missing, belongs to another backbone, or the folder exists.
    """
    if not delta.is_file():
        raise LensflowError(f"{delta}: no such file; train the method, or name its delta.safetensors")
    manifest, applied = checkpoint.verify(backbone), delta.with_name(interventions.NAME)
    intervention = interventions.load(applied)
    biases = logit_bias.logit_biases(backbone.parent, intervention.shifts)
    card = model_card(manifest, delta, intervention, biased=bool(biases))
    with tempfile.TemporaryDirectory(dir=backbone.parent) as temporary:
        exported = Path(temporary) / "checkpoint" / "manifest.json"
        exporting.export(backbone, delta, exported)
        if intervention.width is not None:
            logit_bias.hand_on(applied, biases, exported.parent)
        write_text(exported.parent / "README.md", card)
        exporting.copy_out(exported.parent, folder)
    if intervention.width is not None or intervention.instructions:
        return f"{folder}: this folder alone is not the method, which acts while the model answers; README.md says how"
    return f"{folder}: load it with transformers or vLLM"
