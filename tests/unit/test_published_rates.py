import importlib
from pathlib import Path

import pytest

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
    rate = script.line_pass_rate(script.read(PUBLISHED / f"{model}.csv.gz"))
    assert script.distance(rate, script.REPORTED[model]) <= 1.5


def test_distance_and_rate_by_hand(script):
    assert script.distance(97.0, (98.5, 99.0)) == 1.5 and script.distance(98.7, (98.5, 99.0)) == 0
    assert script.distance(99.5, (98.5, 99.0)) == 0.5
    german, english = "Die Katze liegt heute auf dem Sofa.", "The cat lies on the sofa today."
    rows = [("de", "a", german), ("de", "a", english), ("de", "b", german), ("en", "a", english), ("en", "a", "Yes.")]
    given = [{"task": "monolingual", "language": code, "source": s, "completion": text} for code, s, text in rows]
    assert script.line_pass_rate(given) == 100 * ((0.5 + 1) / 2 + 1) / 2
