"""Answers to held-out prompts of a corpus."""

from typing import Literal

from lensflow.schema.decoding import Decoding
from lensflow.schema.types import Name


class Generation(Decoding):
    """Answers to held-out prompts of a corpus, judged by language, repetition, copying and emptiness."""

    kind: Literal["generation"]
    corpus: Name = "embedded"
    split: Literal["dev", "test"] = "test"
