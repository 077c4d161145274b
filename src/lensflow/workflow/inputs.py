"""What `lensflow check` says of data that is there: files, and local copies of the hub's data sets.

The same functions read the data as in the stages `pair_data` and `fetch_items`; nothing is written. Data sets of the
hub are not fetched here: these stages, which come first, check them.
"""

from pathlib import Path

from lensflow.artifacts.hub import local_copy
from lensflow.benchmarks.base import FromDataset
from lensflow.errors import LensflowError
from lensflow.schema.corpus import CorpusDataset
from lensflow.schema.dataset import Dataset
from lensflow.stages.fetch_items import fetched
from lensflow.stages.pair_data import joined
from lensflow.workflow.plan import Plan


def check_data(plan: Plan, root: Path | None) -> None:
    """Check the corpora and the benchmarks' items whose data is on this machine.

    Args:
        plan: what is used of them.
        root: folder of local data sets.

    Raises:
        LensflowError: as the stages that read them.
    """
    for corpus, languages in plan.used_corpora.items():
        if (source := plan.config.corpora[corpus].dataset) is not None and local_copy(source.path, root):
            first = CorpusDataset.model_validate(plan.pair_data(corpus, next(iter(languages)))["dataset"])
            for group in [list(languages)] if source.aligned else [[language] for language in languages]:
                joined(first if source.aligned else source, group, root)
    for name, names in plan.benchmarks.items():
        for language in names:
            _check_items(plan, name, language, root)


def _check_items(plan: Plan, name: str, language: str, root: Path | None) -> None:
    benchmark = plan.config.benchmarks[name]
    if not isinstance(benchmark, FromDataset):
        return
    stage = plan.fetch_items(name, language)
    source = Dataset.model_validate(stage["dataset"])
    if local_copy(source.path, root) is None:
        return
    found = fetched(name, source, language, stage["config"], root, stage["texts"])
    examples = {id_: item for id_, item in found.fewshot.items() if id_ not in found.left_out}
    try:
        benchmark.check_items(found.items, examples, language, plan.task_roots)
    except LensflowError as error:
        raise LensflowError(f"benchmarks.{name}, {language}: {error}") from None
