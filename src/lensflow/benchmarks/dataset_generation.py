"""Answers to the prompts of a data set."""

from typing import Literal

from lensflow.schema.dataset import FromDataset
from lensflow.schema.decoding import Decoding


class DatasetGeneration(FromDataset, Decoding):
    """The same with the prompts of a data set (Language Confusion Benchmark: Marchisio et al., 2024)."""

    kind: Literal["dataset_generation"]
    prompt: str = "prompt"  # column
