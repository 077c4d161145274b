"""The configuration of each stage: everything that changes the stage's result, and nothing else.

Sections that come in kinds (methods, benchmarks) are kept as plain values; the stage validates them.
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
    """Of `prepare_backbone`; `files` is the digest of a folder's small files, so that an edited one is noticed."""

    backbone: Source
    files: str | None = None


class Pairing(Strict):
    """Of `pair_data`: a data set, or a folder with the digest of its texts."""

    language: Language
    dataset: CorpusDataset | None = None
    path: str | None = None
    with_answers: bool = False
    texts: str | None = None


class Fetching(Strict):
    """Of `fetch_items`."""

    benchmark: Name
    dataset: Dataset
    config: str
    texts: list[str] = Field(default_factory=list)  # columns that must hold text


class Extracting(Strict):
    """Of `extract_hidden_states`."""

    prompt: Prompt
    extraction: Extraction


class Fitting(Strict):
    """Of `fit_subspaces`."""

    setting: Setting


class Training(Strict):
    """Of `train`; `extraction` is missing where the method needs no hidden states."""

    method: dict[str, Any]
    setting: Setting
    prompt: Prompt
    seed: int = Field(ge=0)
    extraction: Extraction | None = None


class Cells(Strict):
    """A benchmark with the languages that it is evaluated in, and digests of the task files that it runs."""

    name: Name
    benchmark: dict[str, Any]
    languages: list[Language]
    tasks: dict[Language, str] = Field(default_factory=dict)


class Answering(Strict):
    """Of `answer`; `checkpoints` maps the folder of each to the positions of its benchmarks in `cells`."""

    prompt: Prompt
    evaluation: Evaluation
    cells: list[Cells]
    checkpoints: dict[str, list[int]]

    def of(self, folder: str) -> dict[str, Any]:
        """Return what is one checkpoint's, as plain values."""
        content = self.canonical()
        return {
            "prompt": content["prompt"],
            "evaluation": content["evaluation"],
            "cells": [content["cells"][index] for index in self.checkpoints[folder]],
        }


class Scoring(Strict):
    """Of `score`."""

    cells: list[Cells]


class Judged(Strict):
    """A benchmark whose answers a judge rates."""

    name: Name
    benchmark: dict[str, Any]
    languages: list[Language]


class Judging(Strict):
    """Of `judge`. How the judge is reached is in it too, but what was asked is not asked again for that."""

    benchmarks: list[Judged]


class Collecting(Strict):
    """Of `collect_scores`: tables, sweeps and what they alone ask for, settings, margins, a reference, a protocol."""

    blocks: list[list[str]]
    sweeps: list[dict[str, Any]]
    swept: list[list[str]]
    settings: dict[str, dict[str, Any]]
    retention_margins: dict[str, float]
    versus: str | None
    protocol: Protocol | None = None


class Presenting(Strict):
    """Of `resolve_config`: what tables, figures and report need of the configuration."""

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
