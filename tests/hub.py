"""A stand-in for the library that opens data sets of the hub."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


def opening(load: Callable[..., Any]) -> Callable[..., SimpleNamespace]:
    """A stand-in for `datasets.load_dataset_builder`: `load` gets what is asked for, with `split`, and returns rows."""

    def load_dataset_builder(*args: Any, **kwargs: Any) -> SimpleNamespace:
        return SimpleNamespace(name="json", as_streaming_dataset=lambda split: load(*args, split=split, **kwargs))

    return load_dataset_builder
