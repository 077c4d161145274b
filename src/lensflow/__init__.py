"""Lensflow: a workflow-managed reproducibility pipeline for Lens (arXiv 2410.04407).

`import lensflow as lf` gives the objects of `lensflow.api` for notebooks. These objects need torch, which takes seconds
to import, so they are imported when they are first used. The import is not an import statement, because the code digest
of each stage covers what the packages around it import, and the API is not part of any stage.
"""

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("lensflow")
__all__ = ["Comparison", "Lens", "Model", "Space", "Texts", "corpus", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("lensflow.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
