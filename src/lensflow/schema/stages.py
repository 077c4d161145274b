"""The configuration of each stage: everything that changes the stage's result, and nothing else.

Sections that have kinds (methods, benchmarks) are kept as plain values; the stage validates them.
"""

from typing import Any

from pydantic import Field

from lensflow.schema.backbone import Prompt, Source
from lensflow.schema.corpus import CorpusDataset
from lensflow.schema.dataset import Dataset
from lensflow.schema.evaluation import Evaluation
from lensflow.schema.extraction import Extraction
from lensflow.schema.protocol import Protocol
from lensflow.schema.setting import Setting
from lensflow.schema.strict import Strict
from lensflow.schema.types import Language, Name


class Preparing(Strict):
    """The configuration of `prepare_backbone`.

    `files` is the digest of a folder's small files, so an edited file is noticed.
    """

    backbone: Source
    files: str | None = None


class Pairing(Strict):
    """The configuration of `pair_data`: a data set, or a folder with the digest of its texts."""

    language: Language
    dataset: CorpusDataset | None = None
    path: str | None = None
    with_answers: bool = False
    texts: str | None = None


class Fetching(Strict):
    """The configuration of `fetch_items`."""

    benchmark: Name
    dataset: Dataset
    config: str
    texts: list[str] = Field(default_factory=list)  # columns that must hold text


class Extracting(Strict):
    """The configuration of `extract_hidden_states`."""

    prompt: Prompt
    extraction: Extraction


class Fitting(Strict):
    """The configuration of `fit_subspaces`."""

    setting: Setting


class Training(Strict):
    """The configuration of `train`; `extraction` is missing if the method needs no hidden states."""

    method: dict[str, Any]
    setting: Setting
    prompt: Prompt
    seed: int = Field(ge=0)
    extraction: Extraction | None = None


class Cells(Strict):
    """A benchmark with the languages that it is evaluated in, and the digests of its task files."""

    name: Name
    benchmark: dict[str, Any]
    languages: list[Language]
    tasks: dict[Language, str] = Field(default_factory=dict)


class Answering(Strict):
    """The configuration of `answer`; `checkpoints` maps each checkpoint's folder to the positions of its benchmarks in
    `cells`."""

    prompt: Prompt
    evaluation: Evaluation
    cells: list[Cells]
    checkpoints: dict[str, list[int]]

    def of(self, folder: str) -> dict[str, Any]:
        """Return the part of one checkpoint, as plain values."""
        content = self.canonical()
        return {
            "prompt": content["prompt"],
            "evaluation": content["evaluation"],
            "cells": [content["cells"][index] for index in self.checkpoints[folder]],
        }


class Scoring(Strict):
    """The configuration of `score`."""

    cells: list[Cells]


class Judged(Strict):
    """A benchmark whose answers a judge rates."""

    name: Name
    benchmark: dict[str, Any]
    languages: list[Language]


class Judging(Strict):
    """The configuration of `judge`.

    It includes how to reach the judge, but a change of that does not repeat a request.
    """

    benchmarks: list[Judged]


class Collecting(Strict):
    """The configuration of `collect_scores`: tables, sweeps with their own tables, settings, margins, reference and
    protocol."""

    blocks: list[list[str]]
    sweeps: list[dict[str, Any]]
    swept: list[list[str]]
    settings: dict[str, dict[str, Any]]
    retention_margins: dict[str, float]
    versus: str | None
    protocol: Protocol | None = None


class Presenting(Strict):
    """The configuration of `resolve_config`: what tables, figures and report need to know."""

    title: str
    backbones: dict[str, Any]
    blocks: list[list[str]]
    settings: dict[str, Any]
    methods: dict[str, Any]
    order: list[str]
    told_language: list[str]
    versus: str | None
    evaluation: dict[str, Any]
    extraction: dict[str, Any]
    reported: dict[str, Any] = Field(default_factory=dict)
    command: str
    results: str
