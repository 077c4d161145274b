"""The meaning of a key of the configuration, from the docstring below the key in the schema (`lensflow explain`)."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lensflow.errors import LensflowError
from lensflow.schema.kinds import Kinds
from lensflow.schema.messages import did_you_mean
from lensflow.workflow import project
from lensflow.workflow.experiment import Config, read


@dataclass(frozen=True)
class Key:
    """A key of the configuration.

    Attributes:
        path: sections and key, without names that users choose: `backbones.resources.gpus`, `methods.lens.lr`.
        field: pydantic's description of the key.
    """

    path: tuple[str, ...]
    field: FieldInfo

    def __str__(self) -> str:
        """Return the meaning of the key, its values and its default, as text."""
        lines = [" ".join((self.field.description or "No description.").split())]
        if values := choices_of(self.field.annotation):
            lines.append(f"one of: {', '.join(map(str, values))}")
        lines.append(f"default: {default_of(self.field)}")
        return "\n".join(f"    {line}" for line in lines)


def explain(name: str) -> str:
    """Return the description of a key.

    Args:
        name: the key, or the key with sections before it: `limit`, `evaluation.limit`, `methods.lens-gentle.lambda`.

    Raises:
        LensflowError: there is no such key.
    """
    every = list(keys())
    parts = [kind for part in name.split(".") for kind in (part, *_kind_of(part))]
    called = [key for key in every if key.path[-1] == parts[-1]]
    if not called and (kind := _kind_of(name.rpartition(".")[2])):
        inner = sorted({key.path[-1] for key in every if kind[0] in key.path[:-1]})
        raise LensflowError(
            f"explain: '{name}' is an entry of kind {kind[0]}; name one of its keys: {', '.join(inner)}"
        )
    if not called:
        known = {key.path[-1] for key in every}
        known = known if difflib.get_close_matches(parts[-1], known, n=1) else {key.path[0] for key in every}
        raise LensflowError(f"explain: no key '{name}'; {did_you_mean(parts[-1], known)}")
    most = max(len(set(parts) & set(key.path)) for key in called)
    said: dict[str, list[str]] = {}
    for key in called:
        if len(set(parts) & set(key.path)) == most:
            said.setdefault(str(key), []).append(".".join(key.path))
    inner = sorted({key.path[-1] for key in every if len(called) == 1 and key.path[:-1] == called[0].path})
    shown = [f"{', '.join(paths)}\n{text}" for text, paths in said.items()]
    return "\n".join([*shown, *([f"    keys: {', '.join(inner)}"] if inner else [])])


def keys() -> Iterator[Key]:
    """Yield every key of the configuration, once per kind of method and benchmark."""
    yield from _keys(Config, ())


def _keys(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        here = (*path, field.alias or name)
        yield Key(here, field)
        for kind, inner in _models(field.annotation):
            yield from _keys(inner, (*here, *kind))


def _models(annotation: Any) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Yield the sections that a key holds; sections that have kinds are given with their kind."""
    kinds = [given for given in getattr(annotation, "__metadata__", ()) if isinstance(given, Kinds)]
    if get_origin(annotation) is Annotated and kinds:
        yield from (((kind,), kinds[0].config_of(kind)) for kind in kinds[0].builtin())
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield (), annotation
    else:
        for inner in get_args(annotation):
            yield from _models(inner)


def _kind_of(name: str) -> tuple[str, ...]:
    """Return the kind of a method or benchmark of the catalog: `lens` for `lens-gentle`."""
    config = read([], project.folder())
    return tuple(entries[name].kind for entries in (config.methods, config.benchmarks) if name in entries)


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """Return the allowed values of a key, if only some values are allowed."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(value for inner in get_args(annotation) for value in choices_of(inner))


def default_of(field: FieldInfo) -> str:
    """Return a key's default in words."""
    if field.is_required():
        return "none, it must be given"
    if isinstance(field.default, BaseModel):
        return "the defaults of its keys"
    return "none" if field.default is None else str(field.default)
