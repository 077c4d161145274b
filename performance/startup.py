"""What it costs to start Snakemake and to import each stage, and which large libraries that brings.

    python performance/startup.py

The Snakefile's own start is what the rules import, the configuration and the plan; Snakemake's own modules come on top
of it. It and each stage's module run in a process of their own, once. The time is the processor's, user and system: a
busy machine changes it less than the time on the clock.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from lensflow.storage.atomic import write_text
from lensflow.workflow.stages import STAGES

LARGE = ("torch", "transformers", "tokenizers", "sklearn", "matplotlib", "pandas", "scipy", "statsmodels")
LARGE += ("datasets", "lm_eval", "vllm", "openai", "peft")
RULES = Path("workflow/rules/common.smk")  # with all that the Snakefile imports
SNAKEMAKE = "import snakemake.cli, snakemake.workflow"
PROGRAM = """
import json, resource, sys
exec(sys.argv[1])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, sorted(sys.modules)]))
"""
HEAD = "# What starting costs\n\nWritten by `python performance/startup.py`.\n"
DIGESTS = ("for stage in STAGES.values():", "    code_digest(stage.module)")


def snakefile() -> str:
    """Return what the Snakefile does of its own at every start, as Python."""
    imports = re.findall(r"^(?:from|import) .*$", RULES.read_text(encoding="utf-8"), re.MULTILINE)
    return "\n".join([*imports, "plan = Plan(read([], Path(), {}), Path(), Path())", *DIGESTS])


def run(statements: str) -> tuple[float, list[str]]:
    """Return the seconds of the processor that statements take, and the large libraries that they bring."""
    command = [sys.executable, "-c", PROGRAM, statements]
    seconds, modules = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return seconds, [name for name in LARGE if name in modules]


def main() -> None:
    """Write the page."""
    lines = [HEAD, "| start of | processor (s) | large libraries |", "|---|---:|---|"]
    starts = {"Snakemake alone": SNAKEMAKE, "the Snakefile alone": snakefile()}
    starts |= {f"`{stage.module}`": f"import {stage.module}" for stage in STAGES.values()}
    for name, statements in starts.items():
        seconds, libraries = run(statements)
        lines.append(f"| {name} | {seconds:.1f} | {', '.join(libraries)} |")
    write_text(Path("docs/benchmarks/startup.md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
