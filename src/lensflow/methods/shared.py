"""A shared method: the changed weights and directions of a method that somebody exported, loaded by name.

`lensflow push` puts them on the hub, and `lensflow export --reference` puts them into a folder. Both are made for one
backbone. The method may be Lens (Zhao et al., arXiv 2410.04407) or any other. Nothing is trained here. The shared
method is evaluated like all other methods, on the same prompts. Lensflow refuses another backbone than the one that the
method was made for, because a direction means nothing for other weights. `directions` has no default: it names what is
loaded. Name a commit to make the run repeatable.

The method is told the prompt's language and the wanted one, because a shared method may need them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from lensflow.methods.base import Method, Run, Trained
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting


class Shared(Method):
    """The changed weights and the directions of a method that others have exported."""

    seeded: ClassVar[bool] = False
    told_language: ClassVar[bool] = True

    kind: Literal["shared"]
    directions: str = Field(min_length=1)
    """What is loaded: `owner/name@revision` on the hub (without a revision, the newest), or a folder that `lensflow
    export --reference` wrote."""

    def check(self, extraction: Extraction, settings: Mapping[str, Setting]) -> None:
        """Check that the folder exists, if `directions` is not a name on the hub."""
        if not Path(self.directions).is_dir() and (self.directions.count("/") != 1 or self.directions[0] in "./~"):
            raise ValueError(f"directions: '{self.directions}' is not a folder here; correct it, or name owner/name")


Config = Shared


def train(run: Run[Shared]) -> Trained:
    """Write the shared weights and directions as if they had been trained here.

    Raises:
        LensflowError: the files cannot be loaded, belong to another backbone, or lack a language of the setting.
    """
    from lensflow.artifacts import deltas, exported, interventions
    from lensflow.storage.verified import read_manifest

    found = exported.read(run.method.directions)
    found.check_backbone(read_manifest(run.backbone))
    for language in run.setting.languages:
        found.known(language)
    interventions.write(found.intervention, run.output)
    deltas.write(found.changed(), run.backbone.parent, run.output)
    return Trained(tokens=0, parameters=0)
