"""Counters of energy, on files like those of Linux."""

import pytest

from lensflow.storage import energy


@pytest.fixture
def powercap(tmp_path):
    def package(name, value):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "energy_uj").write_text(f"{value}\n")
        (folder / "max_energy_range_uj").write_text("1000000000\n")

    package("intel-rapl:0", 5_000_000)
    package("intel-rapl:1", 900_000_000)
    package("intel-rapl:0:0", 1)  # a part of the first
    return package


def test_packages_add_up_and_a_counter_that_began_again_is_noticed(powercap, tmp_path):
    before = energy.counters(tmp_path)
    assert sorted(before.values()) == [5_000_000, 900_000_000]
    powercap("intel-rapl:0", 7_500_000)
    powercap("intel-rapl:1", 100_000_000)
    assert energy.joules(before, energy.counters(tmp_path)) == pytest.approx(2.5 + 200)
    (tmp_path / "intel-rapl:1/max_energy_range_uj").unlink()
    assert energy.joules(before, energy.counters(tmp_path)) is None  # a training must not be lost for that


def test_without_a_counter_that_can_be_read_nothing_is_said(powercap, tmp_path):
    assert energy.joules({}, {}) is None
    before = energy.counters(tmp_path)
    (tmp_path / "intel-rapl:1/energy_uj").unlink()
    assert energy.counters(tmp_path) == {}
    assert energy.joules(before, energy.counters(tmp_path)) is None
    assert energy.counters(tmp_path / "none") == {}
