"""Interventions: what a method does while the model runs, instead of changing its weights.

`train` writes the intervention beside the empty delta of such a method, stage `answer` applies it, and `lensflow
export` copies it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lensflow.artifacts.layout import INTERVENTION
from lensflow.errors import LensflowError
from lensflow.mathematics.projections import project
from lensflow.storage.atomic import atomic_path
from lensflow.storage.digests import canonical_json
from lensflow.storage.integrity import checked

SHIFT = "shift."  # before a language, in the names of tensors
REMOVED = "removed"
GATE = "gate."  # before the names of its matrices
BLOCK = "block."  # before the languages of a prompt and of its answer, and a number

ANY = ("*", "*")  # the languages of edits that need not be told any

Operation = Literal["add", "remove", "replace", "rotate"]
Positions = Literal["all", "but_first", "prompt", "generated"]
_NEEDED = {"add": {"vector"}, "remove": {"basis"}, "replace": {"vector", "basis"}, "rotate": {"basis"}}


@dataclass(frozen=True)
class BlockEdit:
    """A change of the residual stream after one block. The state of one token, h (d,), becomes h'.

    With strength c, vector v (d,) and orthonormal basis B (d, r):

    - `add`: h' = h + c v
    - `remove`: h' = h - c B Bᵀh; a negative c amplifies the part in the subspace
    - `replace`: h' = h - B Bᵀh + c B Bᵀv; the part in the subspace becomes the part of c v
    - `rotate`: h' = h + B (R(c) - I) Bᵀh, a rotation by c radians in the plane from B's first column to its second

    Attributes:
        layer: 0 for the first block.
        operation: see above.
        vector: v; None if the operation has none.
        basis: B; None if the operation has none.
        strength: c.
        positions: the tokens whose state changes: `all`, all `but_first`, only the `prompt`, or only the `generated`
            ones.
        restore_norm: whether h' is scaled to the length of h.

    Raises:
        ValueError: an unknown operation or position, a negative layer, or not the tensors that the operation needs.
    """

    layer: int
    operation: Operation
    vector: Tensor | None = None
    basis: Tensor | None = None
    strength: float = 1.0
    positions: Positions = "all"
    restore_norm: bool = False

    def __post_init__(self) -> None:
        if self.operation not in _NEEDED or self.positions not in get_args(Positions) or self.layer < 0:
            raise ValueError(f"an edit {self.operation!r} of {self.positions!r} after block {self.layer} is unknown")
        needed = _NEEDED[self.operation]
        if _tensors(self).keys() != needed:
            raise ValueError(f"an edit {self.operation!r} needs {' and '.join(sorted(needed))}, no more")

    @property
    def width(self) -> int:
        """d."""
        tensor = self.basis if self.vector is None else self.vector
        assert tensor is not None
        return len(tensor)

    def __call__(self, states: Tensor, index: Tensor, prompt: Tensor) -> Tensor:
        """Change states; computed in float32, returned in their own precision.

        Args:
            states: (..., d).
            index: (...), the position of each token in its sequence; 0 for the first.
            prompt: (...) or broadcastable to it, the number of tokens in the prompt of each token's sequence.
        """
        before = states.float()
        after = self._changed(before)
        if self.restore_norm:
            after = after * (before.norm(dim=-1, keepdim=True) / after.norm(dim=-1, keepdim=True))
        if self.positions != "all":
            match self.positions:
                case "but_first":
                    chosen = index > 0
                case "prompt":
                    chosen = index < prompt
                case "generated":
                    chosen = index >= prompt
            after = torch.where(chosen[..., None], after, before)
        return after.to(states.dtype)

    def _changed(self, states: Tensor) -> Tensor:
        if self.operation == "add":
            assert self.vector is not None
            return states + self.strength * self.vector.to(states)
        assert self.basis is not None
        match self.operation:
            case "remove":
                return states - self.strength * project(states, self.basis)
            case "replace":
                assert self.vector is not None
                wanted = project(self.vector.to(states), self.basis)
                return states - project(states, self.basis) + self.strength * wanted
            case "rotate":
                basis, angle = self.basis.to(states), torch.tensor(self.strength)
                turn = torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])
                return states + states @ basis @ (turn - torch.eye(2)).to(states) @ basis.mT


@dataclass(frozen=True)
class Gate:
    """A gate that decides which of four families of scripts may come next: U ReLU(P h), with h (d,) the state after the
    final norm.

    Attributes:
        inner: P, (d, d) float32.
        outer: U, (4, d) float32.
    """

    inner: Tensor
    outer: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """Return the gate's output for states (..., d): (..., 4) float32, above 0 for families that may come next."""
        return (states.float() @ self.inner.to(states.device).mT).relu() @ self.outer.to(states.device).mT


@dataclass(frozen=True)
class StateEdit:
    """A change of the states of one language: after blocks, and after the final norm, where h becomes h - R Rᵀh + s.

    Attributes:
        shift: s, (d,); None for none.
        removed: R, (d, r), orthonormal columns; None for none.
        blocks: changes of the residual stream; changes of the same block are applied in this order.
        script: the language whose script restricts the generated tokens; None for no restriction.
        gate: a gate that restricts the generated tokens to families of scripts; None for no restriction.
    """

    shift: Tensor | None = None
    removed: Tensor | None = None
    blocks: tuple[BlockEdit, ...] = ()
    script: str | None = None
    gate: Gate | None = None

    def __call__(self, states: Tensor) -> Tensor:
        """Change states (..., d) after the final norm; computed in float32, returned in their own precision."""
        edited = states.float()
        if self.removed is not None:
            edited = edited - project(edited, self.removed)
        if self.shift is not None:
            edited = edited + self.shift.to(edited)
        return edited.to(states.dtype)


@dataclass(frozen=True)
class Intervention:
    """What a method does while the model answers; by default nothing.

    Attributes:
        shifts: wanted language -> the vector that is added to states after the final norm, (d,) float32.
        removed: (d, r) float32, orthonormal: the subspace that is removed from states after the final norm, in every
            language.
        blocks: language of the prompt, wanted language of the answer -> changes of the residual stream, float32. `ANY`
            stands for all pairs that are not listed.
        constrained: languages whose answers are restricted to their script.
        gate: a gate that restricts answers in every language to families of scripts; None for no restriction.
        instructions: wanted language -> the instruction that is added to a prompt.
        place: whether the instruction comes before or after the prompt.
        frames: wanted language -> the plain template of prompts, which replaces the backbone's.
        shots: wanted language -> pairs of a question and its answer that come before a prompt.

    Raises:
        ValueError: tensors with different numbers of dimensions.
    """

    shifts: Mapping[str, Tensor] = field(default_factory=dict)
    removed: Tensor | None = None
    blocks: Mapping[tuple[str, str], Sequence[BlockEdit]] = field(default_factory=dict)
    constrained: Sequence[str] = ()
    gate: Gate | None = None
    instructions: Mapping[str, str] = field(default_factory=dict)
    place: Literal["before", "after"] = "before"
    frames: Mapping[str, str] = field(default_factory=dict)
    shots: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self._widths) > 1:
            raise ValueError(f"tensors of different models: {' and '.join(map(str, sorted(self._widths)))} dimensions")

    @property
    def width(self) -> int | None:
        """Dimensions of the states that the intervention changes or reads; None if there are none."""
        return next(iter(self._widths), None)

    @property
    def _widths(self) -> set[int]:
        single = [self.removed, None if self.gate is None else self.gate.inner]
        tensors = [*self.shifts.values(), *(tensor for tensor in single if tensor is not None)]
        return {*map(len, tensors), *(edit.width for edits in self.blocks.values() for edit in edits)}

    @property
    def depth(self) -> int:
        """The number of blocks that a model needs for the intervention."""
        return max((edit.layer + 1 for edits in self.blocks.values() for edit in edits), default=0)

    def edit(self, language: str, source: str | None = None) -> StateEdit | None:
        """Return the change of the states; None if they do not change.

        Args:
            language: wanted language of the answer.
            source: language of the prompt; None if it is the same.
        """
        shift, pair = self.shifts.get(language), (source or language, language)
        blocks = tuple(self.blocks.get(pair, self.blocks.get(ANY, ())))
        script = language if language in self.constrained else None
        edit = StateEdit(shift, self.removed, blocks, script, self.gate)
        return edit if any(value is not None and value != () for value in vars(edit).values()) else None

    def instruct(self, language: str, prompt: str) -> str:
        """Return a prompt with the instruction for a language, on its own line."""
        instruction = self.instructions.get(language)
        if instruction is None:
            return prompt
        return f"{instruction}\n{prompt}" if self.place == "before" else f"{prompt}\n{instruction}"

    def identity(self, language: str, source: str | None = None) -> dict[str, Any]:
        """Return a value that separates states in a language from states under another intervention; empty if no state
        changes."""
        edit = self.edit(language, source) or StateEdit()
        changes = {"shift": edit.shift, "removed": edit.removed}
        identity: dict[str, Any] = {name: _digest(tensor) for name, tensor in changes.items() if tensor is not None}
        if edit.script:
            identity["script"] = edit.script
        if edit.gate:
            identity["gate"] = {name: _digest(tensor) for name, tensor in vars(edit.gate).items()}
        if edit.blocks:
            identity["blocks"] = [
                settings_of(block) | {name: _digest(tensor) for name, tensor in _tensors(block).items()}
                for block in edit.blocks
            ]
        return identity


def _tensors(block: BlockEdit) -> dict[str, Tensor]:
    found = {"vector": block.vector, "basis": block.basis}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def settings_of(block: BlockEdit) -> dict[str, Any]:
    """Return what an edit has beside its tensors: attribute -> value."""
    return {name: value for name, value in vars(block).items() if name not in ("vector", "basis")}


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def write(intervention: Intervention, delta: Path) -> None:
    """Write an intervention beside a delta.

    Tensors are `shift.{language}`, `removed`, `gate.{inner|outer}` and `block.{prompt language}.{answer
    language}.{number}.{vector|basis}`. Instructions and the settings of blocks are metadata. Equal interventions give
    equal bytes. For this, there is only one metadata entry, because safetensors writes several entries in any order.
    """
    tensors = {f"{SHIFT}{language}": shift.contiguous() for language, shift in intervention.shifts.items()}
    if intervention.removed is not None:
        tensors[REMOVED] = intervention.removed.contiguous()
    if intervention.gate is not None:
        tensors |= {f"{GATE}{name}": tensor.contiguous() for name, tensor in vars(intervention.gate).items()}
    settings: dict[str, Any] = {}
    for (source, language), edits in intervention.blocks.items():
        for number, block in enumerate(edits):
            name = f"{BLOCK}{source}.{language}.{number}"
            settings[name] = settings_of(block)
            # Two tensors of one file must not share memory.
            tensors |= {f"{name}.{key}": tensor.clone().contiguous() for key, tensor in _tensors(block).items()}
    told: dict[str, Any] = {}
    if intervention.instructions:
        told |= {"instructions": intervention.instructions, "place": intervention.place}
    told |= {name: value for name in ("frames", "shots") if (value := getattr(intervention, name))}
    if settings:
        told["blocks"] = settings
    if intervention.constrained:
        told["constrained"] = intervention.constrained
    with atomic_path(delta.with_name(INTERVENTION)) as temporary:
        save_file(tensors, temporary, metadata={"told": canonical_json(told)} if told else None)


def load(path: Path) -> Intervention:
    """Read a file from `write`.

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
        blocks: dict[tuple[str, str], list[BlockEdit]] = {}
        for name, settings in sorted(told.pop("blocks", {}).items(), key=lambda item: _place(item[0])):
            source, language, _ = _place(name)
            block = BlockEdit(**settings, vector=tensors.get(f"{name}.vector"), basis=tensors.get(f"{name}.basis"))
            blocks.setdefault((source, language), []).append(block)
        matrices = {name.removeprefix(GATE): tensor for name, tensor in tensors.items() if name.startswith(GATE)}
        gate = Gate(**matrices) if matrices else None
        shifts = {name.removeprefix(SHIFT): tensor for name, tensor in tensors.items() if name.startswith(SHIFT)}
        return Intervention(shifts, tensors.get(REMOVED), blocks, gate=gate, **told)
    except (SafetensorError, FileNotFoundError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise LensflowError(f"{path}: cannot be read ({error}); delete it and run again") from None


def _place(name: str) -> tuple[str, str, int]:
    """Return prompt language, answer language and number of `block.{source}.{language}.{number}`."""
    source, language, number = name.removeprefix(BLOCK).split(".")
    return source, language, int(number)
