"""Energy of the processors, as Linux's RAPL counters give it where the system lets one read them."""

from collections.abc import Mapping
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def counters(folder: Path = POWERCAP) -> dict[Path, int]:
    """Return each processor package's counter in microjoules; nothing where there are none or they may not be read."""
    # intel-rapl:0 is a package, also of AMD's; intel-rapl:0:1 a part of it.
    found = {}
    for path in sorted(folder.glob("intel-rapl:*")):
        if path.name.count(":") == 1:
            try:
                found[path] = int((path / "energy_uj").read_text())
            except (OSError, ValueError):
                return {}
    return found


def joules(before: Mapping[Path, int], after: Mapping[Path, int]) -> float | None:
    """Return the energy between two readings, of all that the machine did; None if a counter cannot be read.

    A counter starts again at 0 after `max_energy_range_uj`. If it does so twice between the readings, the result is too
    small.
    """
    if not before or before.keys() != after.keys():
        return None
    used = 0
    for path, start in before.items():
        used += after[path] - start
        if after[path] < start:
            try:
                used += int((path / "max_energy_range_uj").read_text())
            except (OSError, ValueError):
                return None
    return used / 1e6
