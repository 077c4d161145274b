"""Where results lie."""

from pathlib import Path

import pytest

from lensflow.artifacts import layout
from lensflow.artifacts.layout import Place


@pytest.mark.parametrize("root", ["results", "/elsewhere/my results/2024"])
@pytest.mark.parametrize("name", [layout.SCORES, layout.ANSWERS, layout.DELTA, "history.jsonl"])
def test_a_checkpoint_is_read_off_the_path_of_its_files(root, name):
    place = Place("tiny", "en-zh", "lens.lr-0.1", 12)
    assert layout.place_of(Path(root) / place.folder / name) == place
    assert layout.folder_of(Path(root) / place.folder) == place.folder == "tiny/en-zh/lens.lr-0.1/seed12"


def test_a_path_is_also_read_from_within_the_results(tmp_path, monkeypatch):
    (tmp_path / "tiny/none/base/seed0").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "tiny/none/base")
    assert layout.place_of(Path("seed0") / layout.SCORES) == Place("tiny", layout.NO_SETTING, layout.BASE, 0)
    assert layout.folder_of(Path("seed0")) == "tiny/none/base/seed0"


def test_base_alone_is_untouched():
    assert Place("tiny", layout.NO_SETTING, layout.BASE, 0).is_base
    assert not Place("tiny", "en-zh", "lens", 0).is_base


def test_entries_of_a_cache_are_spread_over_folders():
    assert layout.entry(Path("cells"), "abcdef") == Path("cells/ab/abcdef.json")
    assert layout.entry(Path("cells"), "abcdef").parent != layout.entry(Path("cells"), "bacdef").parent


def test_files_by_language():
    paths = [Path("data/mine/zh.jsonl"), Path("data/mine/en.jsonl")]
    assert layout.by_language(paths) == {"zh": paths[0], "en": paths[1]}


def test_no_name_of_a_backbone_or_setting_meets_a_folder_of_the_results():
    assert {"data", "cells", "benchmarks"} <= layout.RESERVED["backbones"]
    assert {layout.NO_SETTING, "backbone"} <= layout.RESERVED["settings"]
