"""Checkpoints from a backbone and a delta (`lensflow export`)."""

import shutil
import tempfile
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lensflow.artifacts.checkpoint import verify
from lensflow.artifacts.weights import WeightFiles
from lensflow.errors import LensflowError
from lensflow.storage.atomic import write_json
from lensflow.storage.digests import digest, file_digest
from lensflow.storage.integrity import MANIFEST, checked


def export(backbone: Path, delta: Path, output: Path) -> None:
    """Build a checkpoint that transformers and vLLM load.

    Shards without a trained tensor are linked. The other shards are written again in the backbone's own precision. The
    folder is emptied first, so that no file of an earlier export stays.

    Args:
        backbone: manifest of the backbone's checkpoint.
        delta: trained tensors, under the checkpoint's names.
        output: manifest of the new checkpoint; its files lie beside it.

    Raises:
        LensflowError: the delta names a tensor that the backbone lacks or that has another shape there (the files at
            `output` then stay as they were), or `output` lies in the backbone's folder.
    """
    manifest = verify(backbone)
    source, folder = backbone.parent.resolve(), output.parent
    if folder.resolve() == source:
        raise LensflowError(f"{folder}: is the backbone's own folder; give another output")
    trained = load_file(checked(delta))
    files = WeightFiles(source)
    for name, tensor in trained.items():
        if name not in files.location:
            raise LensflowError(f"{delta}: tensor '{name}' is not in {backbone}; it belongs to another backbone")
        if files.read(name).shape != tensor.shape:
            raise LensflowError(
                f"{delta}: tensor '{name}' has another shape than in {backbone}; it belongs to another backbone"
            )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    changed = {files.location[name].name for name in trained}
    listing = {}
    for name, entry in manifest["files"].items():
        if name not in changed:
            (folder / name).symlink_to(source / name)
            listing[name] = entry
            continue
        with safe_open(source / name, framework="pt") as file:
            keys = list(file.keys())
            tensors = {key: file.get_tensor(key) for key in keys}
            # What transformers asks for, and no more: several entries are written in any order, and the checksum is
            # what evaluated cells are kept under.
            metadata = {key: value for key, value in (file.metadata() or {}).items() if key == "format"}
        for key, old in tensors.items():
            if key in trained:
                tensors[key] = trained[key].to(old.dtype)
        save_file(tensors, folder / name, metadata=metadata)
        listing[name] = {"size": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
    weights = {name: entry["sha256"] for name, entry in listing.items() if name.endswith(".safetensors")}
    write_json(output, manifest | {"files": listing, "weights": digest(weights)})


def copy_out(checkpoint: Path, folder: Path) -> None:
    """Copy a checkpoint to a folder of the user's, without links; the folder appears when it is complete.

    Raises:
        LensflowError: the folder already exists.
    """
    if folder.exists():
        raise LensflowError(f"{folder}: exists already; give a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        whole = Path(temporary) / folder.name
        shutil.copytree(checkpoint, whole, ignore=shutil.ignore_patterns(MANIFEST))
        whole.rename(folder)
