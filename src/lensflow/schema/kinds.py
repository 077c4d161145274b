"""Sections of the configuration that have kinds.

A kind is a module of this package, or the user's own module, named by its import path.

A kind is a file `{kind}.py` in its package, or a folder `{kind}` with a file `kind.py`. Its module has a class `Config`
whose keys are the section's keys. Its imports must be quick, because the workflow reads every configuration when it
starts. Libraries such as torch are therefore imported inside functions.
"""

import functools
import importlib
import importlib.util
import operator
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator
from pydantic_core import core_schema

from lensflow.errors import LensflowError
from lensflow.schema.messages import did_you_mean
from lensflow.schema.strict import Strict


class _OfKind(BaseModel):
    """A section with only the key `kind`, which every such section has."""

    model_config = ConfigDict(strict=True)
    kind: str


class Kinds:
    """The kinds of one section. An instance is an annotation with which pydantic validates the section.

    Args:
        package: import path of the package that holds the modules.
        base: the base class of every `Config`.
        shared: modules of the package that are not kinds.
        function: a function that every module has, except for the kinds in `without`; None for none.
        without: the kinds that do not need `function`.
    """

    def __init__(
        self, package: str, base: type[Strict], shared: set[str], function: str | None = None, without: str = ""
    ) -> None:
        self.package, self.base, self.shared, self.function, self.without = package, base, shared, function, without

    @functools.cached_property
    def folder(self) -> Path:
        """The folder of the package, found without importing the package."""
        spec = importlib.util.find_spec(self.package)
        assert spec is not None and spec.submodule_search_locations
        return Path(spec.submodule_search_locations[0])

    def builtin(self) -> list[str]:
        """Return the kinds that this package has."""
        return sorted({module.name for module in pkgutil.iter_modules([str(self.folder)])} - self.shared)

    def path_of(self, kind: str) -> str:
        """Return the import path of a kind's module."""
        if "." in kind:
            return kind
        return f"{self.package}.{kind}.kind" if (self.folder / kind).is_dir() else f"{self.package}.{kind}"

    def module_of(self, kind: str) -> ModuleType:
        """Import the module of a kind: one of this package, or a path with a dot such as `my_methods.noise`.

        Raises:
            LensflowError: the module cannot be imported, or lacks `Config` or the function.
        """
        try:
            module = importlib.import_module(self.path_of(kind))
        except Exception as error:  # a module of the user's can fail in any way
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise LensflowError(
                f"module '{kind}' cannot be imported ({reason}); correct it, or install it or add its folder to "
                f"PYTHONPATH"
            ) from None
        config = getattr(module, "Config", None)
        if not (isinstance(config, type) and issubclass(config, self.base)):
            expected = f"{self.base.__module__}.{self.base.__name__}"
            raise LensflowError(f"module '{kind}' has no class Config, a subclass of {expected}; add one")
        if self.function and kind != self.without and not callable(getattr(module, self.function, None)):
            raise LensflowError(f"module '{kind}' has no function {self.function}(run); add one")
        return module

    def config_of(self, kind: str) -> type[Any]:
        """Return the configuration class of a kind.

        Raises:
            LensflowError: as in `module_of`.
        """
        config: type[Any] = self.module_of(kind).Config
        return config

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        as_plain_values = core_schema.plain_serializer_function_ser_schema(Strict.canonical)
        return core_schema.no_info_plain_validator_function(self._validate, serialization=as_plain_values)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        any_class: Any = functools.reduce(operator.or_, map(self.config_of, self.builtin()))
        known: Any = TypeAdapter(Annotated[any_class, Field(discriminator="kind")])
        of_a_module = {"type": "object", "properties": {"kind": {"pattern": r"\."}}, "required": ["kind"]}
        return {"anyOf": [handler(known.core_schema), of_a_module]}

    def _validate(self, value: Any) -> Any:
        if isinstance(value, self.base):
            return value
        kind = self._of_kind.model_validate(value).kind
        if "." not in kind and kind not in self.builtin():
            raise ValueError(f"no kind '{kind}'; {did_you_mean(kind, self.builtin())}")
        return self.config_of(kind).model_validate(value)

    @functools.cached_property
    def _of_kind(self) -> type[_OfKind]:
        kinds = self

        class OfKind(_OfKind):
            """Return the key `kind` after checking that a module of the user's can be imported."""

            @field_validator("kind")
            @classmethod
            def _is_a_path(cls, value: str) -> str:
                if "." in value:
                    try:
                        kinds.config_of(value)
                    except LensflowError as error:
                        raise ValueError(str(error)) from None
                return value

        return OfKind
