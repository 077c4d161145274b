"""The metrics and the columns of their tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lensflow.languages import LATIN, scripts
from lensflow.measures import confusion
from lensflow.measures.outcomes import Outcome

TARGETS = "targets"  # the column of the mean over the target languages


Sample = Mapping[str, Any]  # what is known of one item: what the model said, and the metrics before it in the list
Value = float | bool | None


@dataclass(frozen=True)
class Metric:
    """A metric: how it is computed from a sample, and how tables show it.

    Attributes:
        benchmark: its usual benchmark; tables name others.
        better: which direction is better, "↑", "↓" or "" if neither is.
        decimals: number of decimals in tables.
        definition: one sentence for every legend.
        measure: gives a sample's value in a language, or None if the metric is not defined for the sample. It is None
            itself if a benchmark or a judge gives the values.
        needs: the keys that a sample must have.
        applies: whether the metric is defined in a language.
        tested: whether methods are compared on it.
        of_items: whether it describes the items and not a method. Tables show such a metric once.
        weight: name of the value whose sum divides the sum of a cell's values, such as tokens; None for the number of
            samples.
    """

    benchmark: str
    better: str
    decimals: int
    definition: str
    measure: Callable[[Sample, str], Value] | None = None
    needs: tuple[str, ...] = ()
    applies: Callable[[str], bool] = lambda language: True
    tested: bool = True
    of_items: bool = False
    weight: str | None = None

    def is_defined(self, samples: Sequence[Sample], language: str) -> bool:
        """Return whether samples in a language have the keys that the metric needs."""
        return bool(samples) and all(need in samples[0] for need in self.needs) and self.applies(language)


def _share_of(outcome: Outcome) -> Callable[[Sample, str], bool]:
    return lambda sample, language: bool(sample["outcome"] == outcome)


def _is_detectable_beyond_latin(language: str) -> bool:
    return confusion.is_detectable(language) and scripts(language) != LATIN


JUDGED = ("outcome",)
# In the order of the table. To add a metric, add an entry: stage `score` computes it from stored answers, without a
# model.
METRICS: Mapping[str, Metric] = {
    "usable": Metric(
        "generation",
        "↑",
        2,
        "share of answers in the wanted language that are no loop, no copy of the prompt, not empty and not "
        "undetermined",
        lambda sample, language: sample["usable"],
        needs=JUDGED,
    ),
    "wrong_language": Metric(
        "generation", "↓", 2, "share of answers in another language", _share_of(Outcome.WRONG_LANGUAGE), needs=JUDGED
    ),
    "repetition": Metric(
        "generation",
        "↓",
        2,
        "share of answers that repeat themselves, inside a word or across words, from the start or only at the end, "
        "and are not in another language",
        _share_of(Outcome.LOOP),
        needs=JUDGED,
    ),
    "copying": Metric(
        "generation",
        "↓",
        2,
        "share of answers that give the prompt back and are neither in another language nor a loop",
        _share_of(Outcome.COPY),
        needs=JUDGED,
    ),
    "undetermined": Metric(
        "generation",
        "",
        2,
        "share of answers whose language no detector can tell (names, digits, code, too few letters), without empty "
        "answers, loops and copies",
        _share_of(Outcome.UNDETERMINED),
        needs=JUDGED,
    ),
    "empty": Metric(
        "generation", "↓", 2, "share of answers without letters and digits", _share_of(Outcome.EMPTY), needs=JUDGED
    ),
    "fidelity": Metric(
        "generation",
        "↑",
        2,
        "share of answers in the wanted language, among the answers whose language can be told",
        lambda sample, language: sample["faithful"],
        needs=("faithful",),
    ),
    "line_pass_rate": Metric(
        "generation",
        "↑",
        2,
        "share of answers whose every line of five or more tokens is in the wanted language (Language Confusion "
        "Benchmark)",
        lambda sample, language: sample["line_pass"],
        needs=("line_pass",),
        applies=confusion.is_detectable,
    ),
    "word_pass_rate": Metric(
        "generation",
        "↑",
        2,
        "share of answers without an English word, of those whose lines pass (Language Confusion Benchmark); not "
        "defined for languages written in Latin script; not tested, because it is at its ceiling",
        lambda sample, language: sample["word_pass"],
        needs=("word_pass",),
        applies=_is_detectable_beyond_latin,
        tested=False,
    ),
    "detector_ceiling": Metric(
        "generation",
        "",
        2,
        "share of the prompts themselves that the detector reads as their language; no method can be expected to score "
        "higher, and where it is shown to be below 0.9, answers are not judged",
        lambda sample, language: sample["prompt_faithful"],
        needs=("prompt_faithful",),
        tested=False,
        of_items=True,
    ),
    "usable_reference": Metric(
        "generation",
        "",
        2,
        "positive control: share of the reference answers that count as usable; near 1, or the measure errs",
        lambda sample, language: sample["reference_usable"],
        needs=("reference_usable",),
        tested=False,
        of_items=True,
    ),
    "usable_echo": Metric(
        "generation",
        "",
        2,
        "negative control: share of the prompts that count as usable when they are given back as answers; near 0, or "
        "the measure errs",
        lambda sample, language: sample["echo_usable"],
        needs=("echo_usable",),
        tested=False,
        of_items=True,
    ),
    "cut": Metric(
        "generation",
        "",
        2,
        "share of answers that reached their limit of tokens or characters",
        lambda sample, language: sample["cut"],
        needs=("answer", "cut"),
        tested=False,
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
    "language_margin": Metric(
        "references",
        "↑",
        3,
        "how much likelier the reference answer in the language of the prompt is than the same answer in the central "
        "language, bits per byte: log p / bytes of the one minus log p / bytes of the other; not defined in the "
        "central language; comparable between methods, not between languages",
        lambda sample, language: sample["language_margin"],
        needs=("language_margin",),
    ),
    "content_margin": Metric(
        "references",
        "↑",
        3,
        "how much likelier the reference answer is than other items' reference answers in the same language after the "
        "same prompt, bits per byte",
        lambda sample, language: sample["content_margin"],
        needs=("content_margin",),
    ),
    "own_first": Metric(
        "references",
        "↑",
        2,
        "share of prompts after which the reference answer is likelier, per byte, than each of k other items' "
        "reference answers; chance is 1 / (k + 1), .20 for the usual k",
        lambda sample, language: sample["own_first"],
        needs=("own_first",),
    ),
    "bits_per_byte": Metric(
        "references",
        "↓",
        3,
        "bits that the model needs per UTF-8 byte of reference answers, or of the texts of a benchmark of kind texts",
        lambda sample, language: sample["bits"],
        needs=("bits", "bytes"),
        weight="bytes",
    ),
    "kl": Metric(
        "drift",
        "↓",
        4,
        "mean KL(base ‖ method) of the next token along reference answers, nats per token, over base's 256 likeliest "
        "tokens and the rest as one; not tested, because no method is below base's 0",
        lambda sample, language: sample["kl"],
        needs=("kl", "tokens"),
        tested=False,
        weight="tokens",
    ),
    "accuracy": Metric(
        "cldr",
        "↑",
        2,
        "share of multiple-choice questions whose right choice scores highest; it says whether knowledge is kept, not "
        "whether answers can be read",
    ),
    "chrf": Metric(
        "flores",
        "↑",
        1,
        "mean over items of chrF (chrF2 of sacrebleu, from 0 to 100), the character n-gram F score of one translation "
        "against its reference; not the chrF of the whole corpus",
        lambda sample, language: sample["chrf"],
        needs=("chrf",),
    ),
    "exact_match": Metric("", "↑", 2, "share of questions whose answer is exactly the right one"),
    "f1": Metric(
        "xquad",
        "↑",
        2,
        "mean F1 of the words of an answer and of the right one, as SQuAD's; between spaces, from 0 to 1",
    ),
    "rating": Metric("", "↑", 2, "mean rating of the answers by a judge, from 1 to 10"),
    "steering": Metric(
        "clas-bench",
        "↑",
        2,
        "harmonic mean of language_forcing and relevance (CLaS-Bench); its interval and tests are those of the delta "
        "method",
    ),
    "language_forcing": Metric(
        "clas-bench",
        "↑",
        2,
        "share of answers in the wanted language; an answer whose language cannot be told counts as a failure",
    ),
    "relevance": Metric(
        "clas-bench",
        "↑",
        2,
        "mean of a judge's ratings of relevance and coherence (0, 1 or 2) as a share of 2, whatever the answer's "
        "language",
    ),
    "relevant_in_language": Metric(
        "clas-bench",
        "↑",
        2,
        "share of answers that are in the wanted language and have the judge's highest rating of relevance",
    ),
    "unparsed": Metric("", "↓", 2, "share of the judge's verdicts that hold no rating"),
    "nll": Metric(
        "likelihood",
        "↓",
        3,
        "mean negative log-likelihood of held-out prompts, nats per token",
        lambda sample, language: sample["nll"],
        needs=("nll", "tokens"),
        weight="tokens",
    ),
}
BY_JUDGE = ("rating", "steering", "language_forcing", "relevance", "relevant_in_language", "unparsed")
UNKNOWN_METRIC = Metric("", "", 3, "")
# The columns that name a row of comparisons.csv and of what is made from it.
CELL = ("backbone", "setting", "method", "benchmark", "metric", "language")
# The columns of comparisons.csv: a cell of the table, and its comparison with base. versus.csv has the same columns and
# AGAINST before them, which names a method; its `base` is the value of that method.
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
    "p_adjusted",
    "needed",
    "mark",
    "margin",
    "retention",
    "equivalence",
)
AGAINST = "against"
SIGNIFICANT = 0.05  # of adjusted p-values: the chance of one false mark or more in a family

# Verdicts on claims, and the tests that they rest on.
SHOWN, NOT_SHOWN, ABSENT = "shown", "not shown", "shown to be absent"
SUPERIORITY, NON_INFERIORITY = "superiority", "non-inferiority"
CENTRAL = "central"  # the language of an endpoint
# The columns of claims.csv. `value` is the method's and `reference` the comparator's, on the same items.
CLAIMED = (
    "protocol",  # of the study, or the claims that every run tests
    *("backbone", "setting", "claim", "says", "method", "comparator"),
    *("benchmark", "metric", "language", "direction", "test", "margin", "reason"),
    *("seeds", "comparator_seeds", "questions", "reference", "value"),
    *("difference", "difference_low", "difference_high", "p", "p_adjusted"),
    *("endpoint_verdict", "verdict"),
)
OF_STUDY, BY_DEFAULT = "study", "default"
