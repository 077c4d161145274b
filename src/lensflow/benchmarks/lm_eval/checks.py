"""Checks of an lm-eval task that need neither its items nor lm-eval."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensflow.benchmarks.lm_eval.decoding import decoding
from lensflow.benchmarks.lm_eval.files import read_task
from lensflow.errors import LensflowError
from lensflow.languages import scripts
from lensflow.schema.dataset import Dataset

# Keys of a task file that say where items come from, which here `dataset` says.
_OF_THE_DATA = ("custom_dataset", "test_split", "validation_split", "training_split", "fewshot_split")
# Metrics of a whole corpus for which a single item has no score. chrF, BLEU and TER are computed sentence by sentence.
_OF_THE_CORPUS = (
    *("f1", "mcc", "brier_score", "acc_all", "likelihood", "bypass"),
    *("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"),
)
_OF_WORDS = ("bleu", "ter", "chrf++")  # their words stand between spaces
_UNSPACED = frozenset({"Hani", "Hira", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"})


def check(path: Path, source: Dataset, overrides: Mapping[str, Any], metrics: Mapping[str, str], language: str) -> None:
    """Check the source of a task's examples, and its metrics.

    Args:
        path: the task's file.
        source: the source of the language's items.
        overrides: keys of the file that get other values.
        metrics: name in the tables -> lm-eval's "metric" or "metric,filter".
        language: language of the items.

    Raises:
        LensflowError: examples would come from the evaluated items, a key names the source of the items again,
            answers cannot be generated as the task asks, or a metric has no score for a single item.
    """
    config = read_task(path) | dict(overrides)
    _check_overrides(overrides)
    if config.get("output_type") == "multiple_choice" and config.get("doc_to_target") is None:
        raise LensflowError(f"{path.name}: doc_to_target is missing; name the column of the right answer")
    _check_examples(config, "overrides." if "num_fewshot" in overrides else f"{path.name}: ", source)
    if config.get("output_type") == "generate_until":
        try:
            decoding(config.get("generation_kwargs") or {})
        except LensflowError as error:
            raise LensflowError(f"{path.name}: {error}") from None
    for name, wanted in metrics.items():
        metric, _, filtered = wanted.partition(",")
        _check_metric(config, name, metric, language)
        filters = [str(entry.get("name")) for entry in config.get("filter_list") or ({"name": "none"},)]
        if filtered and filtered not in filters:
            raise LensflowError(f"metrics.{name}: the task has no filter '{filtered}'; it has {', '.join(filters)}")


def _check_overrides(overrides: Mapping[str, Any]) -> None:
    examples = overrides.get("fewshot_config")
    given = [key for key in _OF_THE_DATA if key in overrides]
    given += ["fewshot_config.split"] if isinstance(examples, Mapping) and "split" in examples else []
    if given:
        raise LensflowError(
            f"overrides.{given[0]}: dataset already says where items and examples come from; set dataset.split or "
            "dataset.fewshot_split"
        )


def _check_examples(config: Mapping[str, Any], where: str, source: Dataset) -> None:
    examples, wanted = config.get("fewshot_config"), config.get("num_fewshot") or 0
    if not isinstance(wanted, int) or wanted < 0:
        raise LensflowError(f"{where}num_fewshot: must be a whole number from 0, not {wanted!r}")
    samples = examples.get("samples") if isinstance(examples, Mapping) else None
    if wanted and not source.fewshot_split and not samples:
        none = "" if where == "overrides." else ", or overrides.num_fewshot: 0"
        raise LensflowError(
            f"{where}num_fewshot: {wanted} examples would come from the evaluated items, with their answers; set "
            f"dataset.fewshot_split or overrides.fewshot_config.samples{none}"
        )
    if wanted and isinstance(samples, list) and not source.fewshot_split and len(samples) < wanted:
        raise LensflowError(f"{where}num_fewshot: {wanted} is more than the {len(samples)} samples; lower it")


def _check_metric(config: Mapping[str, Any], name: str, metric: str, language: str) -> None:
    if config.get("process_results") is not None:
        return  # the task's own function names its metrics
    listed = [entry.get("metric") for entry in config.get("metric_list") or [] if isinstance(entry, Mapping)]
    if listed and metric not in listed:
        known = ", ".join(map(str, listed))
        raise LensflowError(f"metrics.{name}: the task has no metric '{metric}'; it has {known}")
    if metric in _OF_THE_CORPUS:
        raise LensflowError(
            f"metrics.{name}: '{metric}' has no score for a single item, which intervals and tests need; use another"
        )
    if metric in _OF_WORDS and scripts(language) & _UNSPACED:
        raise LensflowError(
            f"metrics.{name}: '{metric}' counts words, and '{language}' puts no space between them; use chrf"
        )
