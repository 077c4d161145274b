"""An exported method on the Hugging Face hub."""

import re
import tempfile
from pathlib import Path

from lensflow.errors import LensflowError, of_the_hub
from lensflow.presentation.exporting import export
from lensflow.schema.types import OWNED_NAME_PATTERN


def push(backbone: Path, delta: Path, name: str, *, private: bool = False, dry_run: bool = False) -> list[str]:
    """Put the result of `lensflow export --reference` into a repository on the hub. A missing repository is created.

    Args:
        backbone: manifest of the backbone's checkpoint.
        delta: `delta.safetensors`; the other files that `train` wrote lie beside it.
        name: name of the repository, owner/name.
        private: whether a new repository is private.
        dry_run: whether to send nothing.

    Returns:
        One line per file with its size in bytes, and one line that says where the files are.

    Raises:
        LensflowError: the name is not valid, the method cannot be exported, or the hub refuses the upload.
    """
    if not re.fullmatch(OWNED_NAME_PATTERN, name):
        raise LensflowError(f"{name}: is no name on the hub; give owner/name")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "method"
        export(backbone, delta, folder, reference=True)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        lines = [f"{path.stat().st_size:>12,}  {path.relative_to(folder).as_posix()}" for path in files]
        if dry_run:
            return [*lines, f"{name}: nothing was sent; run without --dry-run to send these files"]
        return [*lines, f"{name}: {_send(folder, name, private)}"]


def _send(folder: Path, name: str, private: bool) -> str:
    """Send a folder; return the address of the commit."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        sent = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Lensflow: an exported method")
    except Exception as error:  # the hub's errors have no common type
        raise LensflowError(
            f"{name}: the hub refuses it ({of_the_hub(error)[:160]}); check HF_TOKEN, its rights and the network"
        ) from None
    return str(sent.commit_url)
