"""The files that `lensflow export` writes beside the weights, for users who run the method outside of the pipeline.

`lensflow.json` describes the method: its backbone, its languages and the prompt format. The folder `intervention` holds
the tensors of what the method does while the model answers. `delta.safetensors` exists only if the folder has no whole
weights and the method changes some weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import TypedDict  # the one that pydantic knows in Python 3.11

from lensflow.artifacts import interventions
from lensflow.artifacts.interventions import Intervention
from lensflow.artifacts.layout import DELTA, INTERVENTION
from lensflow.errors import LensflowError, of_the_hub
from lensflow.schema.backbone import FolderSource, HubSource, PackageSource, Prompt
from lensflow.storage.verified import read_json

NAME = "lensflow.json"
FOLDER = "intervention"
FORMAT = 1


@with_config(ConfigDict(strict=True, extra="allow"))
class _Backbone(TypedDict):
    """The backbone that a method was made for, in `lensflow.json`."""

    source: Annotated[PackageSource | HubSource | FolderSource, Field(discriminator="kind")]
    weights: str
    model_type: str
    layers: int
    hidden_size: int


@with_config(ConfigDict(strict=True, extra="allow"))
class _Content(TypedDict):
    """A `lensflow.json`; `description` writes it."""

    format: Literal[1]
    method: str
    backbone: _Backbone
    prompt: Prompt
    central: str
    languages: list[str]
    edits: dict[str, Any]


@dataclass(frozen=True)
class Exported:
    """An exported method.

    Attributes:
        folder: the local folder.
        content: content of its `lensflow.json`.
        intervention: what the method does while the model answers.
        place: the user's name for it: the folder, or its name on the hub.
    """

    folder: Path
    content: Mapping[str, Any]
    intervention: Intervention
    place: str

    @property
    def is_whole(self) -> bool:
        """Whether the folder also has the backbone's weights."""
        return (self.folder / "config.json").is_file()

    def known(self, language: str) -> str:
        """Return a language that the method knows.

        Raises:
            LensflowError: the method does not know the language.
        """
        if language not in self.content["languages"]:
            raise LensflowError(
                f"{self.place}: does not know language '{language}'; name one of {', '.join(self.content['languages'])}"
            )
        return language

    def check_backbone(self, manifest: Mapping[str, Any]) -> None:
        """Check that a backbone is the one for which the method was made.

        Args:
            manifest: manifest of the backbone.

        Raises:
            LensflowError: the backbone has another size or other weights.
        """
        own = self.content["backbone"]
        shapes = [[of[name] for name in ("model_type", "layers", "hidden_size")] for of in (own, manifest)]
        if own["weights"] == manifest["weights"] and shapes[0] == shapes[1]:
            return
        made, given = ("{} with {} layers of {} dimensions".format(*shape) for shape in shapes)
        differs = f"this backbone is {given}" if made != given else "this backbone has other weights"
        source = own["source"]
        origin = " ".join(str(source[name]) for name in ("name", "package", "path", "revision") if source.get(name))
        raise LensflowError(f"{self.place}: was made for {origin}, {made}; {differs}; load it on its own backbone")

    def changed(self) -> dict[str, Tensor]:
        """Return the weights that the method changes, under the checkpoint's names; empty if it changes none.

        Raises:
            LensflowError: the folder has the whole weights instead.
        """
        if self.is_whole:
            raise LensflowError(
                f"{self.place}: has all weights of the model; load it as a model, or export it with --reference"
            )
        path = self.folder / DELTA
        found: dict[str, Tensor] = load_file(path) if path.is_file() else {}
        return found


def description(
    manifest: Mapping[str, Any], source: Mapping[str, Any], config: Mapping[str, Any], intervention: Intervention
) -> dict[str, Any]:
    """Return the content of `lensflow.json`.

    Args:
        manifest: manifest of the backbone.
        source: source of the backbone, without local paths.
        config: configuration of the training.
        intervention: the intervention whose edits are listed; its tensors are in
            `intervention/intervention.safetensors`.
    """
    blocks = [
        {"prompt": source_language, "answer": language} | interventions.settings_of(edit)
        for (source_language, language), edits in intervention.blocks.items()
        for edit in edits
    ]
    edits = {
        "blocks": blocks,
        "after_the_final_norm": sorted(intervention.shifts) if intervention.removed is None else ["*"],
        "script": list(intervention.constrained),
        "gate": intervention.gate is not None,
    }
    named = ("weights", "model_type", "layers", "hidden_size", "license")
    return {
        "format": FORMAT,
        "method": config["method"]["kind"],
        "backbone": {"source": dict(source)} | {name: manifest[name] for name in named},
        "prompt": config["prompt"],
        "central": config["setting"]["central"],
        "languages": list(config["setting"]["languages"]),
        "edits": edits,
    }


def read(place: str | Path) -> Exported:
    """Read an exported method.

    Args:
        place: its folder, or owner/name or owner/name@revision on the hub. Everything except whole weights is fetched.

    Raises:
        LensflowError: there is no such method, or it does not fit this version.
    """
    folder = local(place, [NAME, DELTA, "config.json", f"{FOLDER}/*"])
    path = folder / NAME
    if not path.is_file():
        raise LensflowError(f"{path}: no such file; give a folder that lensflow export wrote")
    content = read_json(path)
    try:
        TypeAdapter(_Content).validate_python(content)
    except ValidationError:
        raise LensflowError(f"{path}: not in format {FORMAT} of this version; export the method again") from None
    applied = folder / FOLDER / INTERVENTION
    intervention = interventions.load(applied) if applied.is_file() else Intervention()
    return Exported(folder, content, intervention, str(place))


def local(place: str | Path, patterns: list[str], revision: str | None = None) -> Path:
    """Return a folder, or the local copy of a repository on the hub.

    Args:
        place: the folder, owner/name or owner/name@revision.
        patterns: files of the repository that are fetched.
        revision: commit of the repository; None for the newest.

    Raises:
        LensflowError: there is no such folder, and no such repository.
    """
    if Path(place).is_dir():
        return Path(place)
    name, _, after = str(place).partition("@")
    revision = after or revision
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise LensflowError(f"{name}: no such folder; give one, or owner/name on the hub")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub's errors have no common type
        raise LensflowError(
            f"{name}: neither a folder nor available on the hub ({of_the_hub(error)[:160]}); check name and network"
        ) from None
