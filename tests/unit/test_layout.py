from pathlib import Path

import pytest

from lensflow.artifacts.layout import Place, place_of
from lensflow.errors import LensflowError

PLACE = Place("tiny", "en-zh", "lens", 12)


@pytest.mark.parametrize("results", ["results", "/a/b/results", ".", "odd name/seed1/results"])
def test_a_place_is_read_from_a_path_and_gives_it_back(results):
    path = Path(results, "tiny/en-zh/lens/seed12/cost.json")
    assert place_of(path) == PLACE
    assert Path(results) / PLACE.folder == path.parent


def test_samples_lie_in_a_folder_of_their_own():
    assert PLACE.samples("generation", "zh") == "tiny/en-zh/lens/seed12/samples/generation.zh.jsonl"


WRONG = ("cost.json", "tiny/en-zh/lens/12/cost.json", "en-zh/lens/seed0/cost.json", "tiny/en-zh/lens/seed0/a/b.json")


@pytest.mark.parametrize("path", WRONG)
def test_another_path_is_refused_in_one_line(path):
    with pytest.raises(LensflowError, match=f"^{path}: not in a checkpoint's folder; name BACKBONE/.*$"):
        place_of(Path(path))
