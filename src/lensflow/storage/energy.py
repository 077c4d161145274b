"""Energy of the processors, from Linux's RAPL counters if the system allows reading them."""

from collections.abc import Mapping
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def counters(folder: Path = POWERCAP) -> dict[Path, int]:
    """Return each processor package's counter in microjoules; empty if there are none or they may not be read."""
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
    """Return the energy between two readings, for all work of the machine; None if there is no counter.

    A counter starts again at 0 after `max_energy_range_uj`. If this happens more than once, it is not noticed.
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
