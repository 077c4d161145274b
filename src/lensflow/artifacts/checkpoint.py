"""Checkpoint folders: whether one is complete, and whether it is still what was written."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lensflow.errors import LensflowError
from lensflow.storage.digests import current_digest
from lensflow.storage.integrity import record_of, set_aside
from lensflow.storage.verified import read_json, read_manifest


def check_checkpoint(folder: Path, where: str = "") -> None:
    """Check that a checkpoint folder is complete: its files are there, its weights as long as their headers say.

    Args:
        folder: of the checkpoint.
        where: what a message begins with.

    Raises:
        LensflowError: a file is missing, truncated or damaged, or what is there is no checkpoint that can be loaded
            without pickle, code of its own, and the hub.
    """
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise LensflowError(f"{where}{folder / name} is missing; give a checkpoint with a fast tokenizer")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise LensflowError(f"{where}{folder / 'config.json'} names no model_type; give a checkpoint of transformers")
    if "auto_map" in config:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # takes seconds

        if config["model_type"] not in CONFIG_MAPPING_NAMES:
            raise LensflowError(
                f"{where}{folder / 'config.json'} wants code of the checkpoint's own (auto_map) for model_type "
                f"'{config['model_type']}', which is not run; give one of a family that transformers has"
            )
    if "text_config" in config:
        raise LensflowError(
            f"{where}{folder / 'config.json'}: model_type '{config['model_type']}' has a language model in it "
            "(text_config) and more; give the checkpoint of a language model alone"
        )
    for key in ("num_hidden_layers", "hidden_size"):
        if not isinstance(config.get(key), int):
            raise LensflowError(
                f"{where}{folder / 'config.json'} has no {key}: family '{config['model_type']}' is not supported"
            )
    if (folder / "adapter_config.json").exists():  # transformers would load the model that it names, from anywhere
        raise LensflowError(f"{where}{folder} holds an adapter (adapter_config.json); merge it into its model")
    index = folder / "model.safetensors.index.json"
    names = _shards(index, where) if index.is_file() else []
    weights = [folder / name for name in names] or sorted(folder.glob("*.safetensors"))
    if not weights:
        raise LensflowError(f"{where}no *.safetensors in {folder}; convert the checkpoint (pickles are not read)")
    for path in weights:
        if not path.is_file():
            raise LensflowError(f"{where}{path} is missing; fetch it again")
        try:
            with safe_open(path, framework="numpy"):
                pass
        except SafetensorError as error:
            raise LensflowError(f"{where}{path} is truncated or damaged ({error}); fetch it again") from None


def _shards(index: Path, where: str) -> list[str]:
    """The names of the files that an index puts tensors in."""
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise LensflowError(f"{where}{index} has no weight_map of tensors to files; fetch it again")
    for name in names.values():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise LensflowError(f"{where}{index}: '{name}' is no *.safetensors beside it; fetch or convert it again")
    return sorted(set(names.values()))


def chat_template(folder: Path) -> str:
    """Return the chat template of a checkpoint's tokenizer, in its own file or in tokenizer_config.json.

    Raises:
        LensflowError: there is none.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = read_json(folder / "tokenizer_config.json").get("chat_template")
    if not isinstance(template, str):
        raise LensflowError(f"{folder}: the tokenizer has no chat template; set prompt.format: plain")
    return template


def verify(manifest: Path) -> dict[str, Any]:
    """Read a manifest and compare its files with their sizes and checksums; 1 GB takes a second of a core.

    Raises:
        LensflowError: a file is missing or not what was written. If a stage wrote it, the checkpoint was set aside.
    """

    def is_sound(path: Path, entry: Mapping[str, Any]) -> bool:
        return path.is_file() and path.stat().st_size == entry["size"] and current_digest(path) == entry["sha256"]

    content = read_manifest(manifest)
    paths = [manifest.parent / name for name in content["files"]]
    with ThreadPoolExecutor() as pool:
        sound = list(pool.map(is_sound, paths, content["files"].values()))
    for path in (path for path, is_whole in zip(paths, sound, strict=True) if not is_whole):
        if record_of(manifest):
            raise set_aside(path)
        raise LensflowError(f"{path}: missing, truncated or changed; delete {manifest} and run again")
    return content


@contextmanager
def verifying(manifest: Path) -> Iterator[dict[str, Any]]:
    """Give a manifest, and `verify` its checkpoint while the block loads what it needs; done when the block is left.

    Raises:
        LensflowError: as `verify`, also where the block failed on damaged files.
    """
    content = read_manifest(manifest)
    with ThreadPoolExecutor(1) as pool:
        verified = pool.submit(verify, manifest)
        try:
            yield content
        finally:
            verified.result()
