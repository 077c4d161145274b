"""What goes wrong: a case does something to a project and yields the runs that follow, the last of which finishes."""

import shutil
import signal
import subprocess
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.project import TRAINED, Project, Run, flip, own_disk, truncate

# In the order in which they run: stage -> what it leaves behind below the results folder.
OUTPUTS = {
    "prepare_backbone": ("tiny/backbone",),
    "pair_data": ("data",),
    "fetch_items": ("benchmarks",),
    "extract_hidden_states": ("tiny/hidden_states",),
    "fit_subspaces": ("tiny/pair/subspaces.safetensors",),
    "train": ("tiny/pair/lens-tiny",),
    "answer": ("tiny/*/*/seed0/answers.json", "cells"),
    "score": ("tiny/*/*/seed0/scores.json", "tiny/*/*/seed0/samples"),
    "judge": ("tiny/*/*/seed0/judged.json", "tiny/*/*/seed0/verdicts", "verdicts"),
    "collect_scores": ("scores.csv", "comparisons.csv", "versus.csv", "claims.csv", "sweeps.csv"),
    "resolve_config": ("config.json",),
    "make_table": ("tables",),
    "make_figures": ("figures",),
    "report": ("report.html",),
}
# Stage -> the moment at which it has finished an output, but has not yet given it its name, and how often before.
LAST_MOMENT = {
    "prepare_backbone": ("*/backbone/manifest.json", 1),
    "pair_data": ("*/data/small/en.jsonl", 1),
    "fetch_items": ("*/benchmarks/cldr/en.jsonl", 1),
    "extract_hidden_states": ("*/hidden_states/small/en.safetensors", 1),
    "fit_subspaces": ("*/subspaces.safetensors", 1),
    "train": ("*/delta.safetensors", 1),
    "answer": ("*/cells/*.json", 3),
    "score": ("*/scores.json", 1),
    "judge": ("*/verdicts/*.json", 2),
    "collect_scores": ("*/comparisons.csv", 1),
    "resolve_config": ("*results/config.json", 1),
    "make_table": ("*/main.tex", 1),
    "make_figures": ("*/figures/*", 3),
    "report": ("*/report.html", 1),
}
# Stage -> the first file that it opens of what stages before it wrote.
INPUT = {
    "extract_hidden_states": "*/data/small/*.jsonl",
    "train": "*/data/small/*.jsonl",
    "answer": "*/data/small/*.jsonl",
}
TABLES = "results/tables/main.md"  # with all other tables; figures and the report take as long as everything else
Faults = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        name: which.
        done: what is done.
        play: does it and yields every run after it; what ends in an error may be followed by another one.
        needs_root: whether only root can do it.
        quick: whether it is tested every time.
    """

    name: str
    done: str
    play: Callable[[Project], Generator[Run, None, None]]
    needs_root: bool = False
    quick: bool = False


def command(stage: str) -> str:
    """Return a stage's name on the command line."""
    return stage.replace("_", "-")


def fault(stage: str, action: str) -> Faults:
    """Let something happen at a stage's last moment."""
    path, times = LAST_MOMENT[stage]
    return {"stage": command(stage), "faults": [{"at": ["os.rename", path], "times": times, "do": action}]}


def at_input(stage: str, action: str) -> Faults:
    """Let something happen when a stage opens its first input."""
    return {"stage": command(stage), "faults": [{"at": ["open", INPUT[stage]], "do": action}]}


def half_trained(action: str) -> Faults:
    """Let something happen in the middle of a training that keeps its state after every step."""
    often = {"at": ["open", INPUT["train"]], "do": "checkpoint_often"}
    return {
        "stage": "train",
        "faults": [often, {"at": ["os.rename", "*/.training.safetensors"], "times": 9, "do": action}],
    }


def target(stage: str) -> list[str]:
    """Return what to ask for: tables, and all where the stage is about more."""
    return [] if stage in ("make_figures", "report") else [TABLES]


def unfinished(project: Project, stage: str, keep: str = "") -> None:
    """Leave a results folder as it is before a stage, but for what is to be kept."""
    stages = list(OUTPUTS)
    for name in stages[stages.index(stage) :]:
        project.remove(*(pattern for pattern in OUTPUTS[name] if pattern != keep))


def job_killed(stage: str) -> Case:
    def play(project: Project) -> Generator[Run, None, None]:
        unfinished(project, stage)
        yield project.run(*target(stage), fault=fault(stage, "kill"))
        yield project.run(*target(stage))

    done = f"SIGKILL when `{LAST_MOMENT[stage][0].split('/')[-1]}` is written, not yet named"
    return Case(f"{stage} killed", done, play, quick=stage == "make_table")


def training_killed(project: Project) -> Generator[Run, None, None]:
    unfinished(project, "train")
    yield project.run(TABLES, fault=half_trained("kill"))
    assert list((project.root / TRAINED).glob(".training.safetensors")), "no state was kept"
    yield project.run(TABLES)


def answering_killed(project: Project) -> Generator[Run, None, None]:
    unfinished(project, "answer")
    yield project.run(TABLES, fault=fault("answer", "kill"))
    kept = cells(project)
    assert len(kept) == 2  # of the third, the name is missing
    yield project.run(TABLES)
    assert kept.items() < cells(project).items()  # what is finished is not answered again


def cells(project: Project) -> dict[Path, int]:
    """Return when each cell was written."""
    return {path: path.stat().st_mtime_ns for path in project.root.glob("results/cells/*/*.json")}


def training_damaged(damage: Callable[[Path], None]) -> Callable[[Project], Generator[Run, None, None]]:
    def play(project: Project) -> Generator[Run, None, None]:
        unfinished(project, "train")
        yield project.run(TABLES, fault=half_trained("kill"))
        damage(project.root / TRAINED / ".training.safetensors")
        yield project.run(TABLES)

    return play


def snakemake_killed(stage: str) -> Case:
    def play(project: Project) -> Generator[Run, None, None]:
        unfinished(project, stage)
        run = project.start(*target(stage), fault=fault(stage, "wait")).until_reached()
        run.signal(signal.SIGKILL, group=True)
        run.wait()
        yield from unlocked(project, stage)

    return Case(f"Snakemake killed in {stage}", "SIGKILL to Snakemake and all that it started; then --unlock", play)


def orphaned(stage: str) -> Case:
    def play(project: Project) -> Generator[Run, None, None]:
        unfinished(project, stage)
        run = project.start(*target(stage), fault=fault(stage, "wait")).until_reached()
        run.signal(signal.SIGKILL, group=False)
        run.wait()
        run.go_on()
        yield from unlocked(project, stage)

    return Case(
        f"Snakemake alone killed in {stage}",
        "SIGKILL to Snakemake; the job goes on alone to its end; then --unlock",
        play,
    )


def unlocked(project: Project, stage: str) -> Generator[Run, None, None]:
    locked = project.run(*target(stage))
    assert "can be removed with the --unlock argument" in " ".join(locked.output.split())  # what to do
    yield locked
    assert project.run("--unlock").code == 0
    yield project.run(*target(stage))


def interrupted(stage: str, name: str, number: int, group: bool) -> Case:
    def play(project: Project) -> Generator[Run, None, None]:
        unfinished(project, stage)
        run = project.start(*target(stage), fault=fault(stage, "wait")).until_reached()
        run.signal(number, group)
        run.go_on()
        yield run.wait()
        yield project.run(*target(stage))

    whom = "Snakemake and all that it started" if group else "Snakemake"
    return Case(f"{name} in {stage}", f"{signal.Signals(number).name} to {whom}", play)


def disk_full(stage: str) -> Case:
    # Or another stage would run beside it and meet the full disk, too.
    output = {"train": f"{TRAINED}/delta.safetensors", "judge": f"{TRAINED}/judged.json"}.get(stage)
    alone = [output] if output else target(stage)

    def play(project: Project) -> Generator[Run, None, None]:
        unfinished(project, stage)
        with own_disk(project.root / "results", free=0):
            yield project.run(*alone)
            (project.root / "results" / "filler").unlink()
            yield project.run(*target(stage))

    return Case(f"disk full in {stage}", "no byte left for the results; some freed", play, needs_root=True)


def read_only(project: Project) -> Generator[Run, None, None]:
    unfinished(project, "answer")
    results = project.root / "results"
    with own_disk(results, free=1 << 20):
        subprocess.run(["mount", "-o", "remount,ro", results], check=True)
        yield project.run(TABLES)
        subprocess.run(["mount", "-o", "remount,rw", results], check=True)
        yield project.run(TABLES)


def file_too_large(project: Project) -> Generator[Run, None, None]:
    unfinished(project, "train")
    yield project.run(TABLES, fault=at_input("train", "limit_file_size"))
    yield project.run(TABLES)


def out_of_memory(stage: str) -> Case:
    def play(project: Project) -> Generator[Run, None, None]:
        unfinished(project, stage)
        yield project.run(TABLES, fault=at_input(stage, "limit_memory"))
        yield project.run(TABLES)

    return Case(f"out of memory in {stage}", "RLIMIT_AS just above what the process has", play)


# Kind of file -> where it lies, and the stage that reads it again.
FILES = {
    "texts": ("results/data/small/zh.jsonl", "answer"),
    "items": ("results/benchmarks/cldr/zh.jsonl", "answer"),
    "backbone's weights": ("model/model-00002-of-*.safetensors", "answer"),
    "backbone's tokenizer": ("model/tokenizer.json", "answer"),
    "backbone's manifest": ("results/tiny/backbone/manifest.json", "answer"),
    "hidden states": ("results/tiny/hidden_states/small/zh.safetensors", "fit_subspaces"),
    "subspaces": ("results/tiny/pair/subspaces.safetensors", "train"),
    "delta": (f"{TRAINED}/delta.safetensors", "answer"),
    "intervention": (f"{TRAINED}/intervention.safetensors", "answer"),
    "cell": ("results/cells/*/*.json", "answer"),
    "cell to score": ("results/cells/*/*.json", "score"),
    "answers": (f"{TRAINED}/answers.json", "score"),
    "verdict": ("results/verdicts/*/*.json", "judge"),
    "judged answers": (f"{TRAINED}/samples/talk.en.jsonl", "judge"),
    "ratings": (f"{TRAINED}/judged.json", "collect_scores"),
    "scores": (f"{TRAINED}/scores.json", "collect_scores"),
    "scores.csv": ("results/scores.csv", "report"),
    "comparisons.csv": ("results/comparisons.csv", "make_table"),
    "cost": (f"{TRAINED}/cost.json", "make_table"),
    "resolved configuration": ("results/config.json", "make_table"),
    "history": (f"{TRAINED}/history.jsonl", "make_figures"),
    "dev states": (f"{TRAINED}/dev_states.safetensors", "make_figures"),
    "samples": (f"{TRAINED}/samples/answers.zh.jsonl", "report"),
    "versus.csv": ("results/versus.csv", "make_table"),
    "sweeps.csv": ("results/sweeps.csv", "make_figures"),
    "figure": ("results/figures/tiny.pair/*.svg", "report"),
    "record": (f"{TRAINED}/delta.safetensors.record.json", "answer"),
}


CACHES = {"cell": "cells", "verdict": "verdicts"}  # kinds that a folder in the results keeps


def damaged(kind: str, damage: Callable[[Path], None]) -> Case:
    pattern, reader = FILES[kind]

    def play(project: Project) -> Generator[Run, None, None]:
        (path, *_) = sorted(project.root.glob(pattern))
        unfinished(project, reader, keep=CACHES.get(kind, ""))
        before = path.read_bytes()
        damage(path)
        yield project.run(*target(reader))
        if pattern.startswith("model/"):
            path.write_bytes(before)
        if kind == "record":
            path.unlink(missing_ok=True)  # as the message says
        yield project.run(*target(reader))

    how = {truncate: "cut in half", flip: "one bit changed"}[damage]
    done = f"`{pattern}`: {how}" + ("; then fetched again" if pattern.startswith("model/") else "")
    return Case(f"{kind} {how}", done, play, quick=kind == "comparisons.csv" and damage is flip)


def deleted(kind: str, pattern: str, change: Callable[[dict[str, Any]], None]) -> Case:
    def play(project: Project) -> Generator[Run, None, None]:
        project.remove(pattern)
        assert project.run(TABLES).code == 0
        change(project.config)
        yield project.run(TABLES)

    return Case(f"{kind} deleted", f"`{pattern}` deleted while the tables are there; then {change.__doc__}", play)


def another_lr(config: dict[str, Any]) -> None:
    """another lr"""
    config["methods"]["lens-tiny"]["lr"] = 3e-3


def another_probing(config: dict[str, Any]) -> None:
    """fewer texts to probe with"""
    config["settings"]["pair"]["probing_texts"] = 8


def fewer_items(config: dict[str, Any]) -> None:
    """fewer items to evaluate"""
    config["evaluation"]["limit"] = 3


def another_seed(config: dict[str, Any]) -> None:
    """one more seed"""
    config["runs"][0]["seeds"] = [0, 1]


def changed_half_way(change: Callable[[dict[str, Any]], None]) -> Case:
    def play(project: Project) -> Generator[Run, None, None]:
        unfinished(project, "train")
        yield project.run(TABLES, fault=half_trained("kill"))
        change(project.config)
        yield project.run(TABLES)

    done = f"SIGKILL in the middle of the training, then {change.__doc__}"
    return Case(f"configuration changed half-way: {change.__doc__}", done, play)


def seed_added(project: Project) -> Generator[Run, None, None]:
    another_seed(project.config)
    yield project.run(TABLES)


def two_at_once(project: Project) -> Generator[Run, None, None]:
    unfinished(project, "collect_scores")
    first = project.start(TABLES, fault=fault("collect_scores", "wait")).until_reached()
    yield project.run(TABLES)
    first.go_on()
    yield first.wait()


def folder_moved(project: Project) -> Generator[Run, None, None]:
    unfinished(project, "answer")
    moved = project.root.with_name("elsewhere")
    shutil.move(project.root, moved)
    project.root = moved
    yield project.run(TABLES)  # whose backbone links to files at the old place
    yield project.run(TABLES)


KILLED_SNAKEMAKE = ("extract_hidden_states", "train", "answer", "judge", "make_table")
FULL = tuple(stage for stage in OUTPUTS if stage not in ("fit_subspaces", "resolve_config"))
CASES = [
    *map(job_killed, OUTPUTS),
    Case("training killed half-way", "SIGKILL after nine steps, whose state was kept", training_killed),
    Case("answers killed half-way", "SIGKILL after two cells, which are not answered again", answering_killed),
    *(
        Case(
            f"state of a training {how}", "SIGKILL after nine steps, then its kept state damaged", training_damaged(do)
        )
        for do, how in ((truncate, "cut in half"), (flip, "one bit changed"))
    ),
    *map(snakemake_killed, KILLED_SNAKEMAKE),
    *map(orphaned, ("train", "answer")),
    interrupted("train", "ctrl-C", signal.SIGINT, group=True),
    interrupted("answer", "ctrl-C", signal.SIGINT, group=True),
    interrupted("train", "SIGTERM", signal.SIGTERM, group=False),
    interrupted("answer", "SIGTERM to all", signal.SIGTERM, group=True),
    *map(disk_full, FULL),
    Case("results folder read-only", "mounted read-only; then for writing", read_only, needs_root=True),
    Case("files limited in size", "RLIMIT_FSIZE of 512 bytes in train", file_too_large),
    *map(out_of_memory, INPUT),
    *(damaged(kind, damage) for kind in FILES for damage in (truncate, flip)),
    deleted("texts", "data/small/zh.jsonl", fewer_items),
    deleted("backbone", "tiny/backbone", fewer_items),
    deleted("delta", "tiny/pair/lens-tiny/seed0/delta.safetensors", fewer_items),
    deleted("answers", "tiny/none/base/seed0/answers.json", fewer_items),
    deleted("scores", "tiny/none/base/seed0/scores.json", fewer_items),
    deleted("cells", "cells", fewer_items),
    deleted("subspaces", "tiny/pair/subspaces.safetensors", another_lr),
    deleted("hidden states", "tiny/hidden_states/small/zh.safetensors", another_probing),
    changed_half_way(another_lr),
    Case("seed added", "seeds: [0, 1] in a finished folder", seed_added),
    Case("two runs at once", "the same command a second time while it runs", two_at_once, quick=True),
    Case("folder moved", "the whole project moved to another place before the answers", folder_moved),
]
