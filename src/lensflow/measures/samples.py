"""What is read off the answers in one language before any metric is computed."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lensflow.languages import identify
from lensflow.mathematics.statistics import proportion_interval
from lensflow.measures.catalogue import Sample
from lensflow.measures.fidelity import is_faithful
from lensflow.measures.outcomes import judge

CEILING = 0.9  # of the detector: if it accepts a smaller share of the prompts, answers are not judged


def describe(samples: Sequence[Sample], language: str) -> list[dict[str, Any]]:
    """Judge the answers to prompts in one language: return the outcome of each, and what it was decided by.

    Several metrics come from one judgement, so a sample is judged once. `identified` is the likeliest of all languages.
    The prompts are known to be in the language, so the share of them that the detector accepts is its ceiling. If the
    ceiling is shown to be below `CEILING`, only `prompt_faithful` is returned.

    Two answerers of known worth are judged as controls: the reference answer, where there is one, and the prompt.
    """
    read = [is_faithful(sample["prompt"], language) is True for sample in samples]
    if proportion_interval(sum(read), len(read))[1] < CEILING:
        return [{"prompt_faithful": faithful} for faithful in read]
    return [
        {
            "prompt_faithful": faithful,
            "identified": identify(sample["answer"]),
            "echo_usable": judge(sample["prompt"], language, sample["prompt"]).usable,
            **_reference(sample, language),
            **asdict(judge(sample["answer"], language, sample["prompt"])),
        }
        for sample, faithful in zip(samples, read, strict=True)
    ]


def _reference(sample: Sample, language: str) -> dict[str, bool]:
    if "reference" not in sample:
        return {}
    return {"reference_usable": judge(sample["reference"], language, sample["prompt"]).usable}
