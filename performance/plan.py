"""How long Snakemake takes to plan, and where that time goes.

    python performance/plan.py

Two plans, each in a process of its own that is timed from its start to its end: the dry run of a large configuration
(limit: a minute), and the demo again when all of it is there (limit: 5 seconds, best of three). The demo is run with a
command line that only writes empty files, since no result is read to plan. The exit code is 1 if a limit is missed.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lensflow.errors import LensflowError
from lensflow.storage.atomic import write_json, write_text
from lensflow.storage.verified import read_json
from measuring import say, verdict

REPOSITORY = Path(__file__).resolve().parents[1]
SIZES = {"backbones": 10, "settings": 10, "methods": 8, "seeds": 3, "benchmarks": 10}
TARGETS = ("zh", "ja", "ko", "ar", "bn")
PHASES = (
    "Python and imports",
    "rules",
    "configuration (Plan)",
    "jobs and which must run (DAG)",
    "rest: checks, printing",
)
LARGE, AGAIN = "large dry run", "demo, nothing to do"
LIMITS = {LARGE: 60.0, AGAIN: 5.0}  # seconds


def large() -> dict[str, Any]:
    """Return a configuration of `SIZES`, base beside the methods; the model's folder is `model`."""
    languages = ("en", *TARGETS)
    backbone = {"source": {"kind": "folder", "path": "model"}, "license": "none", "prompt": {"format": "plain"}}
    dataset = {"path": "embedded/cldr", "columns": ["question", "choices", "answer"], "id": "id"}
    task = {"kind": "lm_eval", "task": "config/tasks/cldr", "chat": True, "dataset": dataset}
    kinds: list[dict[str, Any]] = [
        {"kind": "generation", "corpus": "embedded"},
        {"kind": "likelihood", "corpus": "embedded"},
        task | {"languages": {language: language for language in languages}},
    ]
    content: dict[str, dict[str, Any]] = {
        "backbones": {f"backbone{i}": backbone for i in range(SIZES["backbones"])},
        "settings": {
            f"setting{i}": {"central": "en", "languages": languages[: 2 + i % len(TARGETS)], "probing_texts": 9 + i}
            for i in range(SIZES["settings"])
        },
        "methods": {f"method{i}": {"kind": "lens", "lr": 1e-5 * (1 + i)} for i in range(SIZES["methods"])},
        "benchmarks": {f"benchmark{i}": kinds[i % len(kinds)] for i in range(SIZES["benchmarks"])},
    }
    run: dict[str, list[Any]] = {section: list(entries) for section, entries in content.items()}
    run["methods"].append("base")
    return content | {"runs": [run | {"seeds": list(range(SIZES["seeds"]))}]}


def phases(began: float, report: Path, arguments: list[str]) -> None:
    """Run Snakemake in this process, which was started at `began`; write the seconds of each phase but the last."""
    import snakemake.cli
    from snakemake.workflow import Workflow

    import lensflow.workflow.experiment
    import lensflow.workflow.plan

    start, rules, plan, jobs, _ = PHASES
    taken = {start: time.time() - began}

    def time_it(phase: str, owner: Any, name: str) -> None:
        untimed, depth = getattr(owner, name), 0

        def timed(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            depth, entered = depth + 1, time.time()
            try:
                return untimed(*args, **kwargs)
            finally:
                depth -= 1
                if not depth:  # a file of rules includes others
                    taken[phase] = taken.get(phase, 0) + time.time() - entered

        setattr(owner, name, timed)

    time_it(rules, Workflow, "include")
    time_it(plan, lensflow.workflow.experiment, "read")
    time_it(plan, lensflow.workflow.plan.Plan, "__init__")
    time_it(jobs, Workflow, "_build_dag")
    try:
        snakemake.cli.main(arguments)
    finally:
        taken[rules] -= taken[plan]
        write_json(report, taken)


def measure(workspace: Any, says: str, *arguments: str) -> dict[str, float]:
    """Run Snakemake in a workspace, check what it `says`, and return the seconds of each phase."""
    report = workspace.root / "phases.json"
    began = time.time()
    command = [sys.executable, str(Path(__file__).resolve()), "--phases", str(began), str(report), *arguments]
    done = subprocess.run(
        command, cwd=workspace.root, env=workspace.environment, capture_output=True, text=True, check=False
    )
    total = time.time() - began
    if done.returncode or says not in done.stdout + done.stderr:
        raise LensflowError(f"snakemake {' '.join(arguments)}: failed: {done.stderr[-2000:]}")
    taken: dict[str, float] = read_json(report)
    return taken | {PHASES[-1]: total - sum(taken.values())}


def markdown(results: dict[str, dict[str, float]]) -> str:
    """Write the table."""
    totals = {name: sum(taken.values()) for name, taken in results.items()}
    rows = [["seconds", *results], ["---", *("---:" for _ in results)]]
    rows += [[phase, *(f"{taken[phase]:.1f}" for taken in results.values())] for phase in PHASES]
    rows.append(["all", *(f"{total:.1f}" for total in totals.values())])
    rows.append(["limit", *(f"{LIMITS[name]:.0f}" for name in results)])
    rows.append(["met", *(verdict(total <= LIMITS[name]) for name, total in totals.items())])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    """Measure, print and write."""
    if sys.argv[1:2] == ["--phases"]:  # what `measure` runs
        phases(float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
        return
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path, help="a Markdown file to write, such as docs/benchmarks/plan.md")
    args = options.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    from tests.workflow.workspace import Workspace

    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        say("demo")
        measure(workspace, "report", "--cores", "2")
        say(AGAIN)
        again = [measure(workspace, "Nothing to be done", "--cores", "2") for _ in range(3)]
        say(LARGE)
        config = workspace.write_config(large())
        trainings = math.prod(count for section, count in SIZES.items() if section != "benchmarks")
        results = {
            LARGE: measure(workspace, f"{trainings}", "--configfile", str(config), "--dry-run"),
            AGAIN: min(again, key=lambda taken: sum(taken.values())),
        }
    sizes = ", ".join(f"{count} {section}" for section, count in SIZES.items())
    text = f"`python performance/plan.py`, {os.cpu_count()} cores. Large: {sizes}.\n\n{markdown(results)}"
    print(text)
    if args.output is not None:
        write_text(args.output, text)
    sys.exit(int(any(sum(taken.values()) > LIMITS[name] for name, taken in results.items())))


if __name__ == "__main__":
    main()
