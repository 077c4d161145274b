"""Sweeps: one key of a method or a setting with several values.

A point of a sweep is its own method (or setting), and its name contains the value. Every stage treats the point like
any other method, and points share all results that do not depend on the key. If the value equals the method's (or the
setting's) own value, the point is that method itself. Tables leave the other points out; figures show them.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lensflow.errors import LensflowError
from lensflow.schema.parsing import parse
from lensflow.schema.setting import Setting
from lensflow.schema.strict import Strict
from lensflow.workflow.experiment import Axis, Config, Run, Sweep

SETTING = "setting."
ALL = "all"  # what the value null is called: of items and texts it means all of them, of the rank all that there are


@dataclass(frozen=True)
class Point:
    """One point of a sweep.

    Attributes:
        sweep: name of the sweep.
        value: value of the sweep's key.
        by: the second key and its value, such as "epochs 5"; None if there is no second key.
        backbone: a backbone.
        of_setting: the setting that the sweep is about.
        setting: the setting that runs; it differs from `of_setting` if the key belongs to the setting.
        method: the method that runs.
        seeds: the seeds of the runs that name the sweep; the method itself may have others.
    """

    sweep: str
    value: str | int | float
    by: str | None
    backbone: str
    of_setting: str
    setting: str
    method: str
    seeds: tuple[int, ...]


def points(config: Config) -> list[Point]:
    """Return the points of all sweeps in the runs of a configuration.

    Raises:
        LensflowError: as in `expand`.
    """
    found: dict[Point, set[int]] = {}
    for run, place in _derive(config)[0]:
        for backbone in run.backbones:
            found.setdefault(Point(backbone=backbone, **place, seeds=()), set()).update(run.seeds)
    return [replace(point, seeds=tuple(sorted(seeds))) for point, seeds in found.items()]


def expand(config: Config) -> Config:
    """Return the configuration with every point's method and setting in the catalog, and a run for each point.

    Raises:
        LensflowError: a method or setting does not take one of the values; the message names the sweep and the value.
    """
    of_sweeps, settings, methods = _derive(config)
    if not of_sweeps:
        return config
    runs = [
        Run(
            backbones=run.backbones,
            settings=(place["setting"],),
            methods=("base", place["method"]),
            benchmarks=run.benchmarks,
            seeds=run.seeds,
        )
        for run, place in of_sweeps
    ]
    data = config.canonical() | {
        "settings": {name: setting.canonical() for name, setting in settings.items()},
        "methods": {name: method.canonical() for name, method in methods.items()},
        "runs": [run.canonical() for run in (*config.runs, *runs)],
    }
    expanded: Config = parse(Config, data)
    return expanded


def _derive(config: Config) -> tuple[list[tuple[Run, dict[str, Any]]], dict[str, Setting], dict[str, Any]]:
    """Return each run with its points, which do not name the backbone yet, and the catalog with all entries that points
    need.

    A value that equals the method's or the setting's own value does not create a new entry.
    """
    of_sweeps: list[tuple[Run, dict[str, Any]]] = []
    settings, methods = dict(config.settings), dict(config.methods)
    for run in config.runs:
        for name, of_setting in itertools.product(run.sweeps, run.settings):
            sweep = config.sweeps[name]
            for values in _combinations(sweep):
                setting, method = of_setting, sweep.method
                for key, value in values.items():
                    where = f"sweeps.{name}: {key} {'null' if value is None else value}"
                    if key.startswith(SETTING):
                        setting = _with(settings, setting, key.removeprefix(SETTING), value, where)
                    else:
                        method = _with(methods, method, key, value, where)
                (_, value), *by = values.items()
                shown = f"{by[0][0]} {_shown(by[0][1])}" if by else None
                place = {"sweep": name, "value": ALL if value is None else value, "by": shown, "of_setting": of_setting}
                of_sweeps.append((run, place | {"setting": setting, "method": method}))
    return of_sweeps, settings, methods


def _with(entries: dict[str, Any], base: str, key: str, value: Any, where: str) -> str:
    """Add a catalog entry with another value of a key, if the value differs; return the name of the entry."""
    changed = parse(type(entries[base]), _changed(entries[base], key, value, where), where)
    if changed == entries[base]:
        return base
    name = f"{base}.{key}-{_shown(value)}"
    if entries.setdefault(name, changed) != changed:
        raise LensflowError(f"{where}: the name '{name}' belongs to another entry; use values that differ in 6 digits")
    return name


def _combinations(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Each value of the key with each value of the second key."""
    axes = [Axis(key=sweep.key, values=sweep.values), *([sweep.by] if sweep.by else [])]
    for values in itertools.product(*(axis.values for axis in axes)):
        yield {axis.key: value for axis, value in zip(axes, values, strict=True)}


def _shown(value: Any) -> str:
    if value is None:
        return ALL
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _changed(section: Strict, key: str, value: Any, where: str) -> dict[str, Any]:
    data = section.canonical()
    *folders, last = key.split(".")
    here: Any = data
    for part in folders:
        here = here.get(part) if isinstance(here, dict) else None
    if not isinstance(here, dict) or last not in here:
        raise LensflowError(f"{where}: no such key; it has {', '.join(data)}")
    here[last] = value
    return data
