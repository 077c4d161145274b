"""What it costs to import each stage, and which large libraries that brings.

    python performance/startup.py

Each stage's module is imported in a process of its own, once. The time is the processor's, user and system: a busy
machine changes it less than the time on the clock.
"""

import json
import subprocess
import sys
from pathlib import Path

from lensflow.storage.atomic import write_text
from lensflow.workflow.stages import STAGES

LARGE = ("torch", "transformers", "tokenizers", "sklearn", "matplotlib", "pandas", "scipy", "statsmodels")
LARGE += ("datasets", "lm_eval", "vllm", "openai", "peft")
PLANNING = "lensflow.workflow.plan"
PROGRAM = """
import importlib, json, resource, sys
importlib.import_module(sys.argv[1])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, sorted(sys.modules)]))
"""
HEAD = "# What starting a stage costs\n\nWritten by `python performance/startup.py`.\n"


def imported(module: str) -> tuple[float, list[str]]:
    """Return the seconds of the processor that an import takes, and the large libraries that it brings."""
    command = [sys.executable, "-c", PROGRAM, module]
    seconds, modules = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return seconds, [name for name in LARGE if name in modules]


def main() -> None:
    """Write the page."""
    lines = [HEAD, "| import of | processor (s) | large libraries |", "|---|---:|---|"]
    for module in [PLANNING, *(stage.module for stage in STAGES.values())]:
        seconds, libraries = imported(module)
        lines.append(f"| `{module}` | {seconds:.1f} | {', '.join(libraries)} |")
    write_text(Path("docs/benchmarks/startup.md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
