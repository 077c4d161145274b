"""How a judge grades answers: the requests, how verdicts are read, and how grades become scores.

There are two protocols. MT-Bench's single-answer grading (Zheng et al., 2023, arXiv 2306.05685) rates every turn of a
question from 1 to 10. CLaS-Bench (arXiv 2601.08331) rates how relevant and coherent an answer is in any language, and
combines this rating with the share of answers in the wanted language. The judge prompt for CLaS-Bench is our own.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from lensflow.mathematics.statistics import harmonic_items
from lensflow.measures.score import score

PROMPTS = Path(str(files("lensflow"))) / "data" / "judge_prompts.yaml"
# The second one is for verdicts that forgot a pair of brackets (Zheng et al.).
RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
LOWEST, HIGHEST = 1, 10
CLEARLY = 2  # the highest rating of relevance
RELEVANCE = re.compile(rf"\[\[([0-{CLEARLY}])\]\]")
RELEVANCE_PROMPT = """\
Rate how relevant and coherent the answer below is. The question and the answer may be in different languages. Ignore \
which language the answer is in.

0: the answer has nothing to do with the question, or is gibberish.
1: the answer is partly about the question, or hard to follow.
2: the answer is clearly about the question, and coherent.

[Question]
{question}
[End of the question]

[Answer]
{answer}
[End of the answer]

Reply with the rating alone: [[0]], [[1]] or [[2]]."""

Message = dict[str, str]
Sample = Mapping[str, Any]  # `turns` (one or two) of a question, `answers` and `reference` (one per turn), and more
Ratings = Sequence[float | None]


@dataclass(frozen=True)
class Protocol:
    """A protocol for grading answers.

    Attributes:
        messages: returns the messages to a judge about one turn of a sample; turns count from 1.
        rating: reads the rating from a verdict; None if the verdict has no rating.
        scores: turns the ratings of a cell into scores, given the sample of each rating; the items keep their order.
    """

    messages: Callable[[Sample, int], list[Message]]
    rating: Callable[[str], float | None]
    scores: Callable[[Sequence[Sample], Ratings], list[dict[str, Any]]]


@cache
def prompts() -> dict[str, dict[str, str]]:
    """Read MT-Bench's prompts: name -> `system` and `user` with slots."""
    content: dict[str, dict[str, str]] = yaml.safe_load(PROMPTS.read_text(encoding="utf-8"))
    return content


def messages(sample: Sample, turn: int) -> list[Message]:
    """Write MT-Bench's request to a judge about one turn of a question.

    Args:
        sample: a question. If a turn has no reference, the reference is blank or missing.
        turn: 1 or 2; the second turn is shown with the first before it.
    """
    references = [*sample["reference"], "", ""][:2]
    name = "single-math-v1" if references[turn - 1].strip() else "single-v1"
    prompt = prompts()[name if turn == 1 else f"{name}-multi-turn"]
    slots = {"question": sample["turns"][0], "answer": sample["answers"][0]}
    for number in range(1, turn + 1):
        slots[f"question_{number}"] = sample["turns"][number - 1]
        slots[f"answer_{number}"] = sample["answers"][number - 1]
        slots[f"ref_answer_{number}"] = references[number - 1]
    return [
        {"role": "system", "content": prompt["system"]},
        {"role": "user", "content": prompt["user"].format(**slots)},
    ]


def rating(verdict: str) -> float | None:
    """Read MT-Bench's rating from a verdict; None if it has no rating from 1 to 10."""
    found = next((match for pattern in RATINGS if (match := pattern.search(verdict))), None)
    value = float(found[1]) if found else 0.0
    return value if LOWEST <= value <= HIGHEST else None


def quality(samples: Sequence[Sample], ratings: Ratings) -> list[dict[str, Any]]:
    """Score a cell of MT-Bench: `rating`, the mean over the verdicts that have a rating, and `unparsed`."""
    return [score("rating", ratings, [1.0] * len(ratings)), _unparsed(ratings)]


def relevance_messages(sample: Sample, turn: int) -> list[Message]:
    """Write the request to a judge about the relevance of an answer: with the question, without a method's
    instruction."""
    slots = {"question": sample["turns"][turn - 1], "answer": sample["answers"][turn - 1]}
    return [{"role": "user", "content": RELEVANCE_PROMPT.format(**slots)}]


def relevance_rating(verdict: str) -> float | None:
    """Read a rating of relevance from a verdict: 0, 1 or 2; None if there is none."""
    found = RELEVANCE.search(verdict)
    return float(found[1]) if found else None


def steering(samples: Sequence[Sample], ratings: Ratings) -> list[dict[str, Any]]:
    """Score a cell of CLaS-Bench.

    Args:
        samples: samples with `faithful`, whether the answer is in the wanted language; None if this cannot be told.
        ratings: ratings of relevance.

    Returns:
        `steering`, the harmonic mean of the next two; `language_forcing`, the share of answers in the wanted language;
        `relevance`, the mean rating as a share of the highest one; `relevant_in_language`, the share of answers that
        are in the wanted language and have the highest rating; `unparsed`. If the answers of the cell were not judged,
        because the detector does not know the language, there are only `relevance` and `unparsed`.
    """
    relevance = [None if value is None else value / CLEARLY for value in ratings]
    judged = [score("relevance", relevance), _unparsed(ratings)]
    if any("faithful" not in sample for sample in samples):
        return judged
    forced = [sample["faithful"] is True for sample in samples]
    both = [own and (value if value is None else value == 1) for own, value in zip(forced, relevance, strict=True)]
    return [
        score("steering", harmonic_items([float(own) for own in forced], relevance)),
        score("language_forcing", forced),
        score("relevant_in_language", both),
        *judged,
    ]


def _unparsed(ratings: Ratings) -> dict[str, Any]:
    return score("unparsed", [int(value is None) for value in ratings])


# What a kind of benchmark names as `judged` -> how its answers are graded.
PROTOCOLS: Mapping[str, Protocol] = {
    "quality": Protocol(messages, rating, quality),
    "relevance": Protocol(relevance_messages, relevance_rating, steering),
}
