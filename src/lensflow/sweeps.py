"""Sweeps: one key of a method or a setting at several values.

A point of a sweep is a method (or a setting) of its own with a name that says the value, so that every stage treats it
like any other, and points share whatever does not depend on the key. Tables leave them out; figures show them.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lensflow.config import Axis, Config, Run, Setting, Strict, Sweep, parse
from lensflow.errors import LensflowError

SETTING = "setting."


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        sweep: its name.
        value: of the sweep's key.
        by: its second key and the value of that, such as "epochs 5"; None where it has none.
        backbone: a backbone.
        of_setting: the setting that the sweep is about.
        setting: the setting that runs, another one where the key is a setting's.
        method: the method that runs.
    """

    sweep: str
    value: Any
    by: str | None
    backbone: str
    of_setting: str
    setting: str
    method: str


def points(config: Config) -> list[Point]:
    """Return the points of all sweeps that the runs of a configuration ask for."""
    found: dict[Point, None] = {}
    for run in config.runs:
        for name, backbone, of_setting in itertools.product(run.sweeps, run.backbones, run.settings):
            sweep = config.sweeps[name]
            for values in _combinations(sweep):
                setting, method = of_setting, sweep.method
                for key, value in values.items():
                    if key.startswith(SETTING):
                        setting = _name(setting, key.removeprefix(SETTING), value)
                    else:
                        method = _name(method, key, value)
                (_, value), *by = values.items()
                shown = f"{by[0][0]} {_shown(by[0][1])}" if by else None
                point = Point(name, value, shown, backbone, of_setting, setting, method)
                found[point] = None
    return list(found)


def expand(config: Config) -> Config:
    """Return the configuration with every point's method and setting in the catalog, and a run for each.

    Raises:
        LensflowError: a method or setting does not take one of the values; names the sweep and the value.
    """
    settings, methods = dict(config.settings), dict(config.methods)
    runs = list(config.runs)
    for run in config.runs:
        for name in run.sweeps:
            sweep = config.sweeps[name]
            for of_setting, values in itertools.product(run.settings, _combinations(sweep)):
                setting, method = of_setting, sweep.method
                for key, value in values.items():
                    where = f"sweeps.{name}: {key} {value}"
                    if key.startswith(SETTING):
                        own = key.removeprefix(SETTING)
                        derived = _name(setting, own, value)
                        settings[derived] = parse(Setting, _changed(settings[setting], own, value, where), where)
                        setting = derived
                    else:
                        derived = _name(method, key, value)
                        changed = _changed(methods[method], key, value, where)
                        methods[derived] = parse(type(methods[method]), changed, where)
                        method = derived
                runs.append(
                    Run(
                        backbones=run.backbones,
                        settings=(setting,),
                        methods=("base", method),
                        benchmarks=run.benchmarks,
                        seeds=run.seeds,
                    )
                )
    if len(runs) == len(config.runs):
        return config
    data = config.canonical() | {
        "settings": {name: setting.canonical() for name, setting in settings.items()},
        "methods": {name: method.canonical() for name, method in methods.items()},
        "runs": [run.canonical() for run in runs],
    }
    expanded: Config = parse(Config, data)
    return expanded


def _combinations(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Every value of the key, with every value of the second one."""
    axes = [Axis(key=sweep.key, values=sweep.values), *([sweep.by] if sweep.by else [])]
    for values in itertools.product(*(axis.values for axis in axes)):
        yield {axis.key: value for axis, value in zip(axes, values, strict=True)}


def _name(base: str, key: str, value: Any) -> str:
    return f"{base}.{key}-{_shown(value)}"


def _shown(value: Any) -> str:
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
