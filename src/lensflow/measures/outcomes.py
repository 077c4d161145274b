"""The outcome of an answer: its first failure, or usable.

Each answer has exactly one outcome, so the shares of a set of answers add up to one. `usable` is the primary measure.
Undetermined answers count as neither right nor wrong, and tables show their share.
"""

import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from lensflow.measures.confusion import is_detectable, line_passes, words_pass
from lensflow.measures.copies import is_copy, takes_option, without_copied
from lensflow.measures.fidelity import check_detectable, is_faithful
from lensflow.measures.loops import is_loop, once, without_tags


class Outcome(StrEnum):
    """The outcomes, in the order in which failures count: only the first failure counts."""

    EMPTY = "empty"
    WRONG_LANGUAGE = "wrong_language"
    LOOP = "loop"
    COPY = "copy"
    UNDETERMINED = "undetermined"
    USABLE = "usable"


@dataclass(frozen=True)
class Judgement:
    """All measures of one answer.

    Attributes:
        outcome: the first failure, or `usable`.
        faithful: whether the answer is in the expected language; None for an empty answer, and if it cannot be told, as
            for an answer that is only a copy.
        loop: whether the answer repeats itself.
        copied: whether the answer repeats the prompt; None without a prompt.
        empty: whether the answer has neither letters nor digits.
        usable: whether `outcome` is `usable`.
        line_pass: line-level pass of the Language Confusion Benchmark; None if no line is long enough or lid.176 lacks
            the language.
        word_pass: word-level pass of the same benchmark; None as in `confusion.words_pass`, or if lid.176 lacks the
            language.
    """

    outcome: Outcome
    faithful: bool | None
    loop: bool
    copied: bool | None
    empty: bool
    usable: bool
    line_pass: bool | None
    word_pass: bool | None


def judge(answer: str, language: str, prompt: str | None = None) -> Judgement:
    """Measure one answer.

    Args:
        answer: the text.
        language: expected language, a BCP 47 tag.
        prompt: the question; without it, copies are not found.

    Raises:
        LensflowError: the language is unknown, or no detector can tell it.
    """
    found, faithful, loop, copied, empty = _decide(answer, language, prompt)
    line_pass = line_passes(answer, language) if is_detectable(language) else None
    word_pass = words_pass(answer, language) if is_detectable(language) else None
    return Judgement(found, faithful, loop, copied, empty, found is Outcome.USABLE, line_pass, word_pass)


def outcome(answer: str, language: str, prompt: str | None = None) -> Outcome:
    """The outcome of one answer: `judge` without the measures that do not decide it.

    Raises:
        LensflowError: the language is unknown, or no detector can tell it.
    """
    return _decide(answer, language, prompt)[0]


def is_empty(answer: str) -> bool:
    """Whether the answer has neither a letter nor a digit, apart from tags."""
    return not any(unicodedata.category(char)[0] in "LN" for char in without_tags(answer))


def _decide(answer: str, language: str, prompt: str | None) -> tuple[Outcome, bool | None, bool, bool | None, bool]:
    """The outcome and the values that decide it: faithful, loop, copied, empty."""
    check_detectable(language)
    empty, loop = is_empty(answer), is_loop(answer)
    copied = None if prompt is None else is_copy(answer, prompt)
    own = _own_text(answer, prompt, loop=loop)
    faithful = None if empty else is_faithful(own, language)
    if faithful is None and prompt is not None and not copied and takes_option(own, prompt):
        faithful = is_faithful(prompt, language) or None  # as much as the prompt whose words it takes
    return _first(empty, faithful, loop, copied), faithful, loop, copied, empty


def _own_text(answer: str, prompt: str | None, *, loop: bool) -> str:
    """The answer's own text: without copied parts and without repetition."""
    own = answer if prompt is None else without_copied(answer, prompt)
    return once(own) if loop else own


def _first(empty: bool, faithful: bool | None, loop: bool, copied: bool | None) -> Outcome:
    failures = {
        Outcome.EMPTY: empty,
        Outcome.WRONG_LANGUAGE: faithful is False,
        Outcome.LOOP: loop,
        Outcome.COPY: bool(copied),
        Outcome.UNDETERMINED: faithful is None,
    }
    return next((found for found, failed in failures.items() if failed), Outcome.USABLE)
