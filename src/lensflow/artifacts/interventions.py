"""What a method does while the model runs, rather than to its weights.

`train` writes it beside the empty delta of such a method, stage `answer` applies it, and `lensflow export` copies it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lensflow.errors import LensflowError
from lensflow.mathematics.projections import project
from lensflow.storage.atomic import atomic_path
from lensflow.storage.digests import canonical_json
from lensflow.storage.integrity import checked

NAME = "intervention.safetensors"
SHIFT = "shift."  # before a language, in the names of tensors
REMOVED = "removed"


@dataclass(frozen=True)
class StateEdit:
    """A change of the states after the final norm, from which logits are computed: h becomes h - R Rᵀh + s.

    Attributes:
        shift: s, (d,); None for none.
        removed: R, (d, r), orthonormal columns; None for none.
    """

    shift: Tensor | None
    removed: Tensor | None

    def __call__(self, states: Tensor) -> Tensor:
        """Change states (..., d); computed in float32, returned in their own precision."""
        edited = states.float()
        if self.removed is not None:
            edited = edited - project(edited, self.removed)
        if self.shift is not None:
            edited = edited + self.shift.to(edited)
        return edited.to(states.dtype)


@dataclass(frozen=True)
class Intervention:
    """What a method does at test time; by default nothing.

    Attributes:
        shifts: language of the prompt -> what is added to states after the final norm, (d,) float32.
        removed: (d, r) float32, orthonormal: the subspace that is removed from these states, in every language.
        instructions: language of the prompt -> what the model is told with it.
        place: where an instruction stands.
    """

    shifts: Mapping[str, Tensor] = field(default_factory=dict)
    removed: Tensor | None = None
    instructions: Mapping[str, str] = field(default_factory=dict)
    place: Literal["before", "after"] = "before"

    @property
    def width(self) -> int | None:
        """Dimensions of the states that it changes; None if it changes none."""
        tensors = [*self.shifts.values(), *([] if self.removed is None else [self.removed])]
        return len(tensors[0]) if tensors else None

    def edit(self, language: str) -> StateEdit | None:
        """Return how states change on prompts of a language; None if they do not."""
        shift = self.shifts.get(language)
        return None if shift is None and self.removed is None else StateEdit(shift, self.removed)

    def instruct(self, language: str, prompt: str) -> str:
        """Return a prompt of a language with what the model is told, on a line of its own."""
        instruction = self.instructions.get(language)
        if instruction is None:
            return prompt
        return f"{instruction}\n{prompt}" if self.place == "before" else f"{prompt}\n{instruction}"

    def identity(self, language: str) -> dict[str, Any]:
        """Return what tells states in a language from those under another intervention; empty if none is changed."""
        edit = self.edit(language)
        changes = {} if edit is None else vars(edit)
        return {name: _digest(tensor) for name, tensor in changes.items() if tensor is not None}


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def write(intervention: Intervention, delta: Path) -> None:
    """Write an intervention beside a delta: tensors `shift.{language}` and `removed`, instructions as metadata.

    Equal interventions are equal bytes (safetensors writes several entries of metadata in any order).
    """
    tensors = {f"{SHIFT}{language}": shift.contiguous() for language, shift in intervention.shifts.items()}
    if intervention.removed is not None:
        tensors[REMOVED] = intervention.removed.contiguous()
    told = canonical_json({"instructions": intervention.instructions, "place": intervention.place})
    with atomic_path(delta.with_name(NAME)) as temporary:
        save_file(tensors, temporary, metadata={"told": told} if intervention.instructions else None)


def load(path: Path) -> Intervention:
    """Read what `write` wrote.

    Raises:
        LensflowError: the file is missing or damaged.
    """
    if not path.is_file():
        raise LensflowError(f"{path}: no such file; train the method again")
    checked(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            told = json.loads((file.metadata() or {}).get("told", "{}"))
    except (SafetensorError, FileNotFoundError, KeyError, ValueError) as error:
        raise LensflowError(f"{path}: cannot be read ({error}); delete it and run again") from None
    return Intervention(
        {name.removeprefix(SHIFT): tensor for name, tensor in tensors.items() if name.startswith(SHIFT)},
        tensors.get(REMOVED),
        **told,
    )
