"""Values that are read from the answers in one language before any metric is computed."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lensflow.languages import identify
from lensflow.mathematics.statistics import proportion_interval
from lensflow.measures.catalogue import Sample
from lensflow.measures.fidelity import is_faithful
from lensflow.measures.outcomes import judge

CEILING = 0.9  # of the detector: if it accepts a smaller share of the prompts, answers are not judged


def describe(samples: Sequence[Sample], language: str, source: str) -> list[dict[str, Any]]:
    """Judge the answers to prompts: return the outcome of each answer, and the values that decide it.

    Several metrics come from one judgement, so a sample is judged once. `identified` is the likeliest of all languages.
    Prompts in the wanted language also measure the detector: the share of them that it accepts is its ceiling. If the
    ceiling is shown to be below `CEILING`, only `prompt_faithful` is returned. Prompts in another language say nothing
    about the detector, so the answers to them have no `prompt_faithful`.

    Two answerers of known quality are judged as controls: the reference answer, if there is one, and the prompt.

    Args:
        samples: samples with `prompt` and `answer`, and optionally `reference`.
        language: expected language of the answers.
        source: language of the prompts.
    """
    read: list[dict[str, Any]] = [{} for _ in samples]
    if source == language:
        accepted = [is_faithful(sample["prompt"], language) is True for sample in samples]
        read = [{"prompt_faithful": faithful} for faithful in accepted]
        if proportion_interval(sum(accepted), len(accepted))[1] < CEILING:
            return read
    return [
        found
        | {"identified": identify(sample["answer"])}
        | _controls(sample, language)
        | asdict(judge(sample["answer"], language, sample["prompt"]))
        for sample, found in zip(samples, read, strict=True)
    ]


def _controls(sample: Sample, language: str) -> dict[str, bool]:
    answers = {"echo_usable": sample["prompt"]}
    if "reference" in sample:
        answers["reference_usable"] = sample["reference"]
    return {name: judge(answer, language, sample["prompt"]).usable for name, answer in answers.items()}
