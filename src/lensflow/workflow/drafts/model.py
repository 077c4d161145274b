"""The model that a user names: a backbone of the catalog, a folder, or a repository of the hub."""

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from lensflow.artifacts.checkpoint import READ_FILES, check_checkpoint, weight_paths
from lensflow.artifacts.tokens import chat_template
from lensflow.errors import LensflowError, of_the_hub
from lensflow.schema.backbone import Backbone
from lensflow.schema.messages import did_you_mean
from lensflow.schema.parsing import parse
from lensflow.workflow import project
from lensflow.workflow.drafts.naming import new_name, relative
from lensflow.workflow.experiment import Config, read


@dataclass(frozen=True)
class FoundModel:
    """A backbone, with its entry if the catalog does not have it; `why` holds comments on the keys of the entry."""

    name: str
    parameters: float | None
    entry: Mapping[str, Any] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)


def backbone(name: str, where: str) -> tuple[str, Backbone]:
    """Return the name and the entry of a model; paths in the entry start from the current folder.

    Args:
        name: a backbone of the catalog, a folder with a checkpoint, or owner/name on the hub.
        where: the beginning of messages.

    Raises:
        LensflowError: there is no such model.
    """
    known = read([], project.folder())
    model = find_model(name, known, Path(), where)
    entry = known.backbones[model.name] if not model.entry else parse(Backbone, dict(model.entry), where)
    assert isinstance(entry, Backbone)
    return model.name, entry


def find_model(name: str, known: Config, folder: Path, where: str = "--model") -> FoundModel:
    """Return a model with its entry for a configuration file in `folder`; without the entry if the catalog has it.

    Raises:
        LensflowError: as in `backbone`.
    """
    path = Path(name).expanduser()
    if name in known.backbones:
        entry = known.backbones[name]
        size = {"package": 4, "hub": 2}.get(entry.source.kind)  # bytes per number of what prepare_backbone writes
        disk = entry.resources.disk_gb
        return FoundModel(name, disk * 1e9 / size if disk and size else None)
    if path.exists():
        check_checkpoint(path, f"{where}: ")
        source = {"kind": "folder", "path": relative(path, folder)}
        return _described(new_name(path.resolve().name, known.backbones), source, path, _license(path), _count(path))
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return _of_the_hub(name, known, where)
    hint = did_you_mean(name, known.backbones)
    raise LensflowError(f"{where}: '{name}' is neither a folder nor owner/name on the hub; correct it ({hint})")


def _of_the_hub(name: str, known: Config, where: str) -> FoundModel:
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = HfApi().model_info(name)
        folder = Path(snapshot_download(name, revision=info.sha, allow_patterns=list(READ_FILES)))
    except Exception as error:  # networks fail in types of several libraries
        raise LensflowError(
            f"{where}: '{name}' is not a folder here, and it cannot be read from the hub ({of_the_hub(error)[:200]}); "
            "correct the name, set HF_TOKEN if it is gated, or check the network"
        ) from None
    source = {"kind": "hub", "name": name, "revision": info.sha}
    license_ = str((info.card_data and info.card_data.get("license")) or "unknown")
    parameters = float(info.safetensors.total) if info.safetensors else None
    model = _described(new_name(name.split("/")[1], known.backbones), source, folder, license_, parameters)
    return FoundModel(model.name, parameters, model.entry, {**model.why, "source": "the hub's newest on " + _today()})


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _described(
    slug: str, source: Mapping[str, Any], folder: Path, license_: str, parameters: float | None
) -> FoundModel:
    """Return the entry of a checkpoint whose small files are in `folder`."""
    why = {"license": "its model card does not say; write it" if license_ == "unknown" else "as its model card says"}
    prompt: dict[str, Any]
    try:
        template = chat_template(folder)
    except LensflowError:
        prompt, why["prompt"] = {"format": "plain"}, 'no chat template: "Question: {prompt}\\nAnswer:"'
    else:
        prompt, why["prompt"] = {"format": "chat"}, "the tokenizer's own chat template"
        if "enable_thinking" in template:
            prompt["template_variables"] = {"enable_thinking": False}
            why["prompt"] += ", without thinking first"
    entry = {"source": source, "license": license_, "prompt": prompt}
    return FoundModel(slug, parameters, entry, why)


def _license(folder: Path) -> str:
    """Return the licence that a checkpoint's model card names, or "unknown"."""
    from huggingface_hub import ModelCard

    try:
        found = ModelCard.load(folder / "README.md").data
    except (OSError, ValueError, yaml.YAMLError):
        return "unknown"
    name = found.get("license")
    return str((found.get("license_name") if name == "other" else name) or "unknown")


def _count(folder: Path) -> float:
    """Return the number of parameters of a checkpoint, from the headers of its weights."""
    count = 0
    for path in weight_paths(folder):
        with safe_open(path, framework="numpy") as file:
            for name in sorted(file.keys()):
                size = 1
                for length in file.get_slice(name).get_shape():
                    size *= length
                count += size
    return float(count)
