"""Benchmarks by their `kind`."""

from collections.abc import Iterable
from typing import Annotated

from lensflow.benchmarks.base import Benchmark
from lensflow.models.engines import registry as engines
from lensflow.schema.kinds import Kinds

BENCHMARKS = Kinds("lensflow.benchmarks", Benchmark, {"base", "registry"})
AnyBenchmark = Annotated[Benchmark, BENCHMARKS]


def modules_of(kinds: Iterable[str], engine: str | None = None) -> list[str]:
    """Return the modules on which a stage's code depends, besides its own module.

    Args:
        kinds: kinds of the benchmarks.
        engine: a value of `evaluation.engine`, if the stage answers.
    """
    roles = (engines.generator, engines.scorer, engines.reader)
    used = set() if engine is None else {engines.path_of(role(engine)) for role in roles}
    return sorted({*map(BENCHMARKS.path_of, set(kinds)), *used})
