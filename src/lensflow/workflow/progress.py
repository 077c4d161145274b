"""Progress of a run: one line per running stage with its rate and the time left, read from the stages' logs.

Every stage writes its progress bar to its log, also on another machine of a cluster. The process that starts the stages
reads the ends of these logs and prints what is new.
"""

import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

SECONDS = 30  # between two looks
_TAIL = 2000  # bytes of a log that hold its last bar
# tqdm's: `zh texts:  25%|██▌       | 8/32 [00:14<00:44,  1.86s/text]`
_BAR = re.compile(
    r"(?:(?P<label>.*):)? *\d+%\|[^|]*\| (?P<done>\S+)/(?P<total>\S+) \[[\d:]+<(?P<left>[\d:?]+), +(?P<rate>[^],]+)"
)


class Progress:
    """Reports the progress of a run's stages while the process lives.

    Args:
        logs: folder with the stages' logs.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._said = dict(_bars(logs))  # bars of earlier runs, which stages left that were killed

    def news(self) -> list[str]:
        """Return one line per stage whose bar is not full and has moved since the last call."""
        bars = dict(_bars(self.logs))
        moved = [f"{name}: {bar}" for name, bar in bars.items() if self._said.get(name) != bar]
        self._said = bars
        return moved

    def start(self) -> None:
        """Print new progress lines regularly, in a separate thread."""
        threading.Thread(target=self._print, daemon=True).start()

    def _print(self) -> None:
        pause = threading.Event()
        while not pause.wait(SECONDS):
            for line in self.news():
                sys.stderr.write(f"{line}\n")


def _bars(logs: Path) -> Iterator[tuple[str, str]]:
    """Yield the stages whose log ends in an incomplete bar: the log's name without its ending, and the bar in words."""
    for path in sorted(logs.rglob("*.log")):
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL))
                end = file.read().decode(errors="replace")
        except OSError:  # a stage that starts again has removed it
            continue
        bar = _BAR.match(end.rstrip().replace("\r", "\n").rpartition("\n")[2])
        if bar and bar["done"] != bar["total"]:
            label = f"{bar['label']}: " if bar["label"] else ""
            name = path.relative_to(logs).with_suffix("").as_posix()
            yield name, f"{label}{bar['done']} of {bar['total']}, {bar['rate'].strip()}, {bar['left']} left"
