"""Export of a method to a folder with a model card."""

import shutil
import tempfile
from pathlib import Path

from safetensors import safe_open

from lensflow.artifacts import checkpoint, exported, interventions
from lensflow.artifacts import export as exporting
from lensflow.artifacts.layout import DELTA, INTERVENTION
from lensflow.errors import LensflowError
from lensflow.models import control_vectors, logit_bias
from lensflow.presentation.model_card import acts, model_card, public
from lensflow.storage.atomic import write_json, write_text
from lensflow.storage.verified import read_json


def export(backbone: Path, delta: Path, folder: Path, *, reference: bool = False) -> str:
    """Write a backbone with a delta to a new folder, without links.

    Args:
        backbone: manifest of the backbone's checkpoint.
        delta: `delta.safetensors`; the other files that `train` wrote lie beside it.
        folder: new folder for the checkpoint.
        reference: whether to name the backbone instead of copying its weights.

    Returns:
        One line: the folder, and how to use it.

    Raises:
        LensflowError: the delta is missing, belongs to another backbone, or the folder exists.
    """
    if not delta.is_file():
        raise LensflowError(f"{delta}: no such file; train the method, or name its delta.safetensors")
    manifest, applied = checkpoint.verify(backbone), delta.with_name(INTERVENTION)
    intervention, config = interventions.load(applied), read_json(delta.with_name("config.json"))
    biases = logit_bias.logit_biases(backbone.parent, intervention.shifts)
    vectors = control_vectors.control_vectors(intervention)
    files = [control_vectors.name_of(pair) for pair in vectors]
    card = model_card(manifest, delta, intervention, biased=bool(biases), reference=reference, vectors=files)
    with tempfile.TemporaryDirectory(dir=backbone.parent) as temporary:
        made = Path(temporary) / "checkpoint"
        if reference:
            _refer(delta, made)
        else:
            exporting.export(backbone, delta, made / "manifest.json")
        if acts(intervention):
            logit_bias.hand_on(applied, biases, made)
            control_vectors.write(vectors, manifest, made / exported.FOLDER)
        content = exported.description(manifest, public(manifest["source"]), config, intervention)
        write_json(made / exported.NAME, content)
        write_text(made / "README.md", card)
        exporting.copy_out(made, folder)
    if reference:
        return f"{folder}: what the method changes, without the backbone's weights; README.md says how to load it"
    if acts(intervention) or intervention.instructions:
        return f"{folder}: this folder alone is not the method, which acts while the model answers; README.md says how"
    return f"{folder}: load it with transformers or vLLM"


def _refer(delta: Path, folder: Path) -> None:
    """Copy a delta if it changes anything."""
    folder.mkdir()
    with safe_open(delta, framework="pt") as file:
        changes = any(file.keys())
    if changes:
        shutil.copyfile(delta, folder / DELTA)
