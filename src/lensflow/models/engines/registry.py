"""The engines by name: modules of this package, or the user's own modules, named by their import path.

An engine's module has a function `start(checkpoint, tokenizer, evaluation, resources)`, which returns a
`lensflow.models.engines.protocol.Engine`, and a constant `READS`, which says whether the engine reads whole
distributions.
"""

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

from lensflow.errors import LensflowError
from lensflow.schema.messages import did_you_mean

PACKAGE = "lensflow.models.engines"
SHARED = {"edits", "ends", "gate", "process", "protocol", "registry", "script_mask"}  # modules that are no engines
PLAIN = "hf"  # the engine that can do everything
# What `auto` takes for generation: the fast one. Log-likelihoods are faster with the plain one on a CPU.
FAST = "vllm"


def builtin() -> list[str]:
    """Return the engines that this package has."""
    folder = str(Path(__file__).parent)
    return sorted({module.name for module in pkgutil.iter_modules([folder])} - SHARED)


def path_of(name: str) -> str:
    """Return the import path of an engine's module."""
    return name if "." in name else f"{PACKAGE}.{name}"


def module_of(name: str) -> ModuleType:
    """Import the module of an engine.

    Raises:
        LensflowError: the module cannot be imported.
    """
    try:
        module = importlib.import_module(path_of(name))
    except ImportError as error:
        raise LensflowError(f"evaluation.engine: {name} cannot be imported ({error}); install it") from None
    if missing := next((needed for needed in ("start", "READS") if not hasattr(module, needed)), None):
        raise LensflowError(f"evaluation.engine: module {name} has no '{missing}'; add it")
    return module


def check(name: str) -> None:
    """Check that an engine exists and is installed, without loading it.

    Raises:
        LensflowError: the engine does not exist or is not installed.
    """
    if "." in name:
        if not _is_there(name):
            raise LensflowError(f"evaluation.engine: no module {name}; install it or add its folder to PYTHONPATH")
    elif name not in builtin():
        raise LensflowError(f"evaluation.engine: no '{name}'; {did_you_mean(name, ['auto', *builtin()])}")
    elif name == FAST and importlib.util.find_spec(FAST) is None:
        raise LensflowError(f"evaluation.engine: {name} is not installed; run make setup or use {PLAIN}")


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def generator(engine: str) -> str:
    """Return the engine that generates, for a value of `evaluation.engine`."""
    return FAST if engine == "auto" else engine


def scorer(engine: str) -> str:
    """Return the engine that scores continuations."""
    return PLAIN if engine == "auto" else engine


def reader(engine: str) -> str:
    """Return the engine that reads whole distributions: the user's own engine if it can, or else the plain one."""
    if engine in ("auto", *builtin()):
        return PLAIN
    return engine if module_of(engine).READS else PLAIN
