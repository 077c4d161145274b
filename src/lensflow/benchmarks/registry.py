"""Benchmarks by their `kind`."""

from typing import Annotated

from lensflow.benchmarks.base import Benchmark
from lensflow.schema.kinds import Kinds

BENCHMARKS = Kinds("lensflow.benchmarks", Benchmark, {"base", "registry"})
AnyBenchmark = Annotated[Benchmark, BENCHMARKS]
