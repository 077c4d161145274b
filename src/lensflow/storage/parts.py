"""Tensors that a run keeps for the next run in case it is killed. A file of them holds its own checksum."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lensflow.storage.atomic import atomic_path
from lensflow.storage.digests import canonical_json
from lensflow.storage.integrity import LOG

CHECKSUM = "sha256"


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors and texts atomically."""
    texts = dict(metadata or {})
    with atomic_path(path) as temporary:
        save_file(dict(tensors), temporary, metadata=texts | {CHECKSUM: _checksum(tensors, texts)})


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Read tensors and texts; None if there is no file. A damaged file also gives None, is removed, and is reported."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            metadata = dict(file.metadata() or {})
    except SafetensorError:
        tensors, metadata = {}, {}
    checksum = metadata.pop(CHECKSUM, None)
    if checksum == _checksum(tensors, metadata):
        return tensors, metadata
    path.unlink()
    LOG.warning("%s: damaged (truncated or changed); it was removed and is made again", path)
    return None


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    checksum = hashlib.sha256(canonical_json(dict(metadata)).encode())
    for name, tensor in sorted(tensors.items()):
        checksum.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]).encode())
        checksum.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return checksum.hexdigest()
