"""All kinds of benchmarks."""

from typing import Annotated

from pydantic import Field

from lensflow.benchmarks.dataset_generation import DatasetGeneration
from lensflow.benchmarks.generation import Generation
from lensflow.benchmarks.likelihood import Likelihood
from lensflow.benchmarks.lm_eval import Task
from lensflow.benchmarks.mt_bench import MtBench

Benchmark = Annotated[
    Generation | DatasetGeneration | Likelihood | Task | MtBench,
    Field(discriminator="kind"),
]
