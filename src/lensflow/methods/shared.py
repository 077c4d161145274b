"""What others have shared: the changed weights and the directions of an exported method, loaded by name.

`lensflow push` puts them on the hub and `lensflow export --reference` into a folder, both for one backbone: the method
may be Lens (Zhao et al., arXiv 2410.04407) or any other. Nothing is trained here. What is loaded is evaluated like all
other methods, on the same prompts. Another backbone than the one it was made for is refused: a direction means nothing
among other weights. There is no default: `directions` names what is loaded, and a commit makes a run repeatable.

The method is told the prompt's language and the wanted one, because what is shared may need them.
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
    """What is loaded: `owner/name@revision` on the hub (without a revision its newest), or a folder that
    `lensflow export --reference` wrote."""

    def check(self, extraction: Extraction, settings: Mapping[str, Setting]) -> None:
        """Check that there is such a folder, if it is none of the hub's names."""
        if not Path(self.directions).is_dir() and (self.directions.count("/") != 1 or self.directions[0] in "./~"):
            raise ValueError(f"directions: '{self.directions}' is no folder here; correct it, or name owner/name")


Config = Shared


def train(run: Run[Shared]) -> Trained:
    """Write what was shared as if it had been trained here.

    Raises:
        LensflowError: it cannot be had, belongs to another backbone, or lacks a language of the setting.
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
