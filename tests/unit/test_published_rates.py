import importlib
from pathlib import Path

import pytest

from lensflow.mathematics.statistics import proportion_interval
from lensflow.presentation.reported_table import compared
from lensflow.storage.parsing import read_yaml

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "../shared/published/language-confusion/outputs"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "performance")
        return importlib.import_module("outcomes")


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published completions are not here")
@pytest.mark.parametrize("model", ["command-r-plus", "command-r", "gpt-3.5-turbo", "gpt-4-turbo", "llama-2-instruct"])
def test_line_pass_rates_are_the_authors(script, model):
    rows = read_yaml(script.REPORTED)["reported"]["language-confusion"]["tables"][0]["rows"]
    (figure,) = (row["values"][0] for row in rows if row["backbone"] == model)
    rate = script.line_pass_rate(script.read(PUBLISHED / f"{model}.csv.gz"))
    _, _, difference, _ = compared(rate, tuple(figure) if isinstance(figure, list) else figure, 100, 1)
    assert abs(difference.value) <= 1.5


def test_the_rate_by_hand(script):
    german, english = "Die Katze liegt heute auf dem Sofa.", "The cat lies on the sofa today."
    rows = [("de", "a", german), ("de", "a", english), ("de", "b", german), ("en", "a", english), ("en", "a", "Yes.")]
    given = [{"task": "monolingual", "language": code, "source": s, "completion": text} for code, s, text in rows]
    found = script.line_pass_rate(given)
    assert found.value == ((0.5 + 1) / 2 + 1) / 2 and found.n == 4
    halves, ones = proportion_interval(1, 2), proportion_interval(1, 1)
    below = (0.25 * (0.5 - halves[0])) ** 2 + (0.25 * (1 - ones[0])) ** 2 + (0.5 * (1 - ones[0])) ** 2
    assert found.low == pytest.approx(found.value - below**0.5)
    assert found.high == pytest.approx(found.value + 0.25 * (halves[1] - 0.5))  # no source passes more than always
