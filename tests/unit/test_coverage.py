"""The 95 % intervals hold the truth about 95 times in 100 (performance/coverage.py, docs/measures/coverage.md)."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from lensflow.mathematics import statistics


@pytest.fixture
def coverage(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "performance"))
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    return importlib.import_module("coverage")


def mean(coverage, heading, design, n, runs):
    simulation, parameters = coverage.SIMULATIONS[heading]
    return np.mean([coverage.coverage(simulation, design, n, parameter, runs) for parameter in parameters])


@pytest.mark.parametrize("heading", ["Share", "Difference of shares", "Difference of means of numbers"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_means_over_six_languages_are_covered(coverage, heading, seeds):
    design = coverage.Design(6, seeds, 0.5, 0.3 if seeds > 1 else 0)
    assert 0.93 <= mean(coverage, heading, design, 100, 90) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(
    "heading",
    [
        "Share",
        "Difference of shares",
        "Difference of shares of the items that count",
        "Mean of numbers",
        "Difference of means of numbers",
    ],
)
@pytest.mark.parametrize("n", [24, 100, 200])
def test_every_design_is_covered(coverage, heading, n):
    for design in coverage.DESIGNS:
        assert 0.925 <= mean(coverage, heading, design, n, 500) <= 0.98, design.text


def test_an_interval_that_is_too_narrow_is_found_out(coverage, monkeypatch):
    monkeypatch.setattr(statistics, "proportion_interval", lambda k, n: (k / n - 0.5 / n**0.5, k / n + 0.5 / n**0.5))
    assert mean(coverage, "Share", coverage.Design(1, 1, 0, 0), 24, 60) != pytest.approx(0.95, abs=0.02)


def test_the_page_has_every_design_and_n(coverage):
    page = (Path(__file__).parents[2] / "docs/measures/coverage.md").read_text()
    for heading in coverage.SIMULATIONS:
        assert f"## {heading}\n" in page
    for design in coverage.DESIGNS:
        assert page.count(f"| {design.text} |") == len(coverage.SIMULATIONS)
