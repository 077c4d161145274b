"""Methods by their `kind`: a module of this package, or one of the user's by its import path.

A module has a class `Config` (a `lensflow.methods.base.Method`, whose keys are the method's) and, except for `base`, a
function `train`. Its imports must be quick, because the workflow reads every configuration when it starts. Libraries
like torch are therefore imported inside functions.
"""

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

from lensflow import methods
from lensflow.errors import LensflowError
from lensflow.methods.base import Method
from lensflow.provenance.code import code_digest, code_of, imports_of, modules
from lensflow.storage.digests import digest

SHARED = {"finetuning", "registry"}  # modules that are no kinds


def method_digest(kind: str) -> str:
    """Digest of the code behind a kind of method; of a module of the user's, its file and what it imports from here."""
    if "." not in kind:
        return code_digest(path_of(kind))
    file = Path(str(module_of(kind).__file__))
    return digest([code_of(file), code_digest(*imports_of(file))])[:16]


def method_modules(kind: str) -> list[str]:
    """Return the modules of this package behind a kind of method, sorted; of a user's module, those that it imports."""
    if "." not in kind:
        return modules(path_of(kind))
    return modules(*imports_of(Path(str(module_of(kind).__file__))))


def builtin() -> list[str]:
    """Return the kinds that this package has."""
    found = {module.name for module in pkgutil.iter_modules(methods.__path__)}
    return sorted(found - SHARED)


def path_of(kind: str) -> str:
    """Return the module behind a kind of this package: a file `{kind}.py`, or `method.py` in a folder `{kind}`."""
    is_folder = (Path(methods.__path__[0]) / kind).is_dir()
    return f"methods.{kind}.method" if is_folder else f"methods.{kind}"


def module_of(kind: str) -> ModuleType:
    """Import the module of a kind: one of this package, or a path with a dot such as `my_methods.noise`.

    Raises:
        LensflowError: it cannot be imported, or lacks `Config` or `train`.
    """
    try:
        module = importlib.import_module(kind if "." in kind else f"lensflow.{path_of(kind)}")
    except Exception as error:  # a module of the user's can fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise LensflowError(
            f"module '{kind}' cannot be imported ({reason}); mend it, or install it or add its folder to PYTHONPATH"
        ) from None
    config = getattr(module, "Config", None)
    if not (isinstance(config, type) and issubclass(config, Method)):
        raise LensflowError(f"module '{kind}' has no class Config, a subclass of lensflow.methods.base.Method; add one")
    if kind != "base" and not callable(getattr(module, "train", None)):
        raise LensflowError(f"module '{kind}' has no function train(run); add one")
    return module


def config_of(kind: str) -> type[Method]:
    """Return the configuration class of a kind.

    Raises:
        LensflowError: as `module_of`.
    """
    config: type[Method] = module_of(kind).Config
    return config
