"""The metrics and the columns of their tables."""

from collections.abc import Mapping
from dataclasses import dataclass

BASE = "base"  # the untouched backbone's method …
NO_SETTING = "none"  # … and the setting it is evaluated under, once for all languages
TARGETS = "targets"  # the column of the mean over the target languages


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: its benchmark, which direction is better, decimals, definition."""

    benchmark: str
    better: str
    decimals: int
    definition: str


# In the order of the table.
METRICS: Mapping[str, Metric] = {
    "fidelity": Metric("generation", "↑", 2, "share of answers identified as the language of the prompt"),
    "line_pass_rate": Metric(
        "generation",
        "↑",
        2,
        "share of answers whose every line of five or more tokens is in the language of the prompt",
    ),
    "word_pass_rate": Metric(
        "generation",
        "↑",
        2,
        "share of answers without an English word, of those whose lines pass; not defined for languages written in "
        "Latin script",
    ),
    "script_mass": Metric(
        "likelihood",
        "↑",
        2,
        "mean over prompts of the next-token probability of the language's own script, as a share of own script plus "
        "Latin, where the answer begins; not defined for languages written in Latin script",
    ),
    "repetition": Metric("generation", "↓", 2, "share of answers that repeat themselves"),
    "copying": Metric("generation", "↓", 2, "share of answers that copy the prompt"),
    "empty": Metric("generation", "↓", 2, "share of answers without text"),
    "accuracy": Metric("cldr", "↑", 2, "share of multiple-choice questions whose right choice scores highest"),
    "exact_match": Metric("", "↑", 2, "share of questions whose answer is exactly the right one"),
    "rating": Metric("", "↑", 2, "mean rating of the answers by a judge, from 1 to 10"),
    "unparsed": Metric("", "↓", 2, "share of the judge's verdicts that hold no rating"),
    "nll": Metric("likelihood", "↓", 3, "mean negative log-likelihood of held-out prompts, nats a token"),
}
UNKNOWN_METRIC = Metric("", "", 3, "")
# The columns of comparisons.csv: a cell of the table, and what came of comparing it with base. Of versus.csv,
# too: there `base` is the value of the method that stands in AGAINST, a column before them.
COLUMNS = ("backbone", "setting", "method", "seeds", "benchmark", "metric", "language", "n", "value", "low", "high")
COMPARED = (
    "base",
    "paired",
    "left_out",
    "difference",
    "difference_low",
    "difference_high",
    "test",
    "p",
    "p_holm",
    "mark",
    "margin",
    "retention",
)
AGAINST = "against"
SIGNIFICANT = 0.05  # of Holm's adjusted p-values: the chance of one false mark or more in a block
