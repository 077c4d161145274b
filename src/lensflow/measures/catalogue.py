"""The metrics and the columns of their tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lensflow.languages import LATIN, is_identifiable, scripts
from lensflow.measures import answers, confusion

TARGETS = "targets"  # the column of the mean over the target languages


Sample = Mapping[str, Any]  # what is known of one item: what the model said, and the metrics before it in the list
Value = float | bool | None


@dataclass(frozen=True)
class Metric:
    """A metric: how it is computed from a sample, and how it is shown.

    Attributes:
        benchmark: the usual one; tables name others.
        better: which direction is better, "↑", "↓" or "" where neither is.
        decimals: in tables.
        definition: one sentence, for every legend.
        measure: gives a sample's value in a language, None where the metric is not defined for the sample; None for a
            metric whose values a benchmark or a judge gives.
        needs: what a sample must have.
        applies: whether the metric is defined in a language.
        column: name of a sample's value; by default the metric's own.
        weight: what the sum of a cell's values is divided by, such as tokens; None for the number of samples.
    """

    benchmark: str
    better: str
    decimals: int
    definition: str
    measure: Callable[[Sample, str], Value] | None = None
    needs: tuple[str, ...] = ()
    applies: Callable[[str], bool] = lambda language: True
    column: str | None = None
    weight: str | None = None

    def is_defined(self, samples: Sequence[Sample], language: str) -> bool:
        """Return whether samples in a language have what the metric needs."""
        return bool(samples) and all(need in samples[0] for need in self.needs) and self.applies(language)


def _is_detectable_beyond_latin(language: str) -> bool:
    return confusion.is_detectable(language) and scripts(language) != LATIN


# In the order of the table. To add a metric, add an entry: finished answers are scored with it in seconds.
METRICS: Mapping[str, Metric] = {
    "fidelity": Metric(
        "generation",
        "↑",
        2,
        "share of answers identified as the language of the prompt",
        lambda sample, language: answers.is_faithful(sample["answer"], language),
        needs=("answer",),
        applies=is_identifiable,
        column="faithful",
    ),
    "line_pass_rate": Metric(
        "generation",
        "↑",
        2,
        "share of answers whose every line of five or more tokens is in the language of the prompt",
        lambda sample, language: confusion.line_passes(sample["answer"], language),
        needs=("answer",),
        applies=confusion.is_detectable,
        column="lines_pass",
    ),
    "word_pass_rate": Metric(
        "generation",
        "↑",
        2,
        "share of answers without an English word, of those whose lines pass; not defined for languages written in "
        "Latin script",
        lambda sample, language: confusion.words_pass(sample["answer"], language),
        needs=("answer",),
        applies=_is_detectable_beyond_latin,
        column="words_pass",
    ),
    "script_mass": Metric(
        "likelihood",
        "↑",
        2,
        "mean over prompts of the next-token probability of the language's own script, as a share of own script plus "
        "Latin, where the answer begins; not defined for languages written in Latin script",
        lambda sample, language: sample["script_mass"],
        needs=("script_mass",),
    ),
    "repetition": Metric(
        "generation",
        "↓",
        2,
        "share of answers that repeat themselves",
        lambda sample, language: answers.is_repetitive(sample["answer"]),
        needs=("answer",),
        column="repetitive",
    ),
    "copying": Metric(
        "generation",
        "↓",
        2,
        "share of answers that copy the prompt",
        lambda sample, language: answers.copies_prompt(sample["answer"], sample["prompt"]),
        needs=("answer", "prompt"),
        column="copied",
    ),
    "empty": Metric(
        "generation",
        "↓",
        2,
        "share of answers without text",
        lambda sample, language: answers.is_empty(sample["answer"]),
        needs=("answer",),
    ),
    "accuracy": Metric("cldr", "↑", 2, "share of multiple-choice questions whose right choice scores highest"),
    "exact_match": Metric("", "↑", 2, "share of questions whose answer is exactly the right one"),
    "rating": Metric("", "↑", 2, "mean rating of the answers by a judge, from 1 to 10"),
    "unparsed": Metric("", "↓", 2, "share of the judge's verdicts that hold no rating"),
    "nll": Metric(
        "likelihood",
        "↓",
        3,
        "mean negative log-likelihood of held-out prompts, nats a token",
        lambda sample, language: sample["nll"],
        needs=("nll", "tokens"),
        weight="tokens",
    ),
}
UNKNOWN_METRIC = Metric("", "", 3, "")
# The columns of comparisons.csv: a cell of the table, and what came of comparing it with base. Of versus.csv,
# too: there `base` is the value of the method that stands in AGAINST, a column before them.
COLUMNS = ("backbone", "setting", "method", "seeds", "benchmark", "metric", "language", "n", "value", "low", "high")
COMPARED = (
    "base",
    "paired",
    "left_out",
    "questions",
    "room",
    "difference",
    "difference_low",
    "difference_high",
    "test",
    "p",
    "p_holm",
    "mark",
    "margin",
    "retention",
    "equivalence",
)
AGAINST = "against"
SIGNIFICANT = 0.05  # of Holm's adjusted p-values: the chance of one false mark or more in a block
