"""Methods: one module each, found by the `kind` of a method in the configuration.

A module has a class `Config` (a `lensflow.config.Method`, whose keys are the method's) and, but for `base`, a function
`train`. Its imports must be quick, because the workflow reads every configuration when it starts: torch and the like
are imported inside functions.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from lensflow.config import Extraction, Method, Prompt, Setting
from lensflow.errors import LensflowError

M = TypeVar("M", bound=Method)


@dataclass(frozen=True)
class HiddenStates:
    """What the stages between the backbone and the training wrote, for the languages of a setting.

    Attributes:
        extraction: how the states were made.
        subspaces: what `fit_subspaces` wrote.
        states: for each language, what `extract_hidden_states` wrote.
    """

    extraction: Extraction
    subspaces: Path
    states: Mapping[str, Path]


@dataclass(frozen=True)
class Run(Generic[M]):
    """One training: a method with a seed, on one backbone and setting.

    Attributes:
        method: the configuration.
        setting: languages, and which of them is central.
        seed: of all that is random.
        prompt: the backbone's prompt format.
        backbone: manifest of its checkpoint, whose files lie beside it.
        texts: for each language, what `pair_data` wrote of the training corpus.
        output: `delta.safetensors`, the tensors that differ from the backbone's (`lensflow.deltas.write`). A method may
            write `history.jsonl`, `dev_states.safetensors` and `intervention.safetensors` (`lensflow.interventions`)
            beside it; where it does not, they are left empty.
        hidden: only for methods that say `needs_states`.
        gpus: that the stage was given; 0 for none.
    """

    method: M
    setting: Setting
    seed: int
    prompt: Prompt
    backbone: Path
    texts: Mapping[str, Path]
    output: Path
    hidden: HiddenStates | None = None
    gpus: int = 0


@dataclass(frozen=True)
class Trained:
    """What a training took.

    Attributes:
        tokens: real tokens that were trained on, each as often as it was.
        parameters: numbers that were free to change.
        earlier_seconds: time that killed processes spent on what the last one went on from.
    """

    tokens: int
    parameters: int
    earlier_seconds: float = 0.0


def check_space(kind: str, settings: Mapping[str, Setting]) -> None:
    """Check that a method which changes states after the final norm is given directions or subspaces of these.

    Raises:
        ValueError: see `lensflow.config.Method.check`.
    """
    for name, setting in settings.items():
        if setting.space != "post_norm":
            raise ValueError(
                f"kind: {kind} changes states after the final norm, setting {name} has space: {setting.space}; "
                "set it to post_norm"
            )


def builtin() -> list[str]:
    """Return the kinds that this package has."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def module_of(kind: str) -> ModuleType:
    """Import the module of a kind: one of this package, or a path with a dot such as `my_methods.noise`.

    Raises:
        LensflowError: it cannot be imported, or lacks `Config` or `train`.
    """
    try:
        module = importlib.import_module(kind if "." in kind else f"{__name__}.{kind}")
    except Exception as error:  # a module of the user's can fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise LensflowError(
            f"module '{kind}' cannot be imported ({reason}); mend it, or install it or add its folder to PYTHONPATH"
        ) from None
    config = getattr(module, "Config", None)
    if not (isinstance(config, type) and issubclass(config, Method)):
        raise LensflowError(f"module '{kind}' has no class Config, a subclass of lensflow.config.Method; add one")
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
