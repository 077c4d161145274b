"""What is measured on a generated answer and on next-token probabilities.

Fidelity alone can be gamed, by repeating oneself or the question in the right language: the shares of empty, repetitive
and copying answers belong beside it. The four are shown as shares of n answers, with `statistics.proportion_interval`.
"""

from difflib import SequenceMatcher

import regex

from lensflow.errors import LensflowError
from lensflow.languages import base_code, identify, is_identifiable, scripts_in

# Human text stays clear of both: no embedded text repeats more than 0.2, no embedded answer copies more than 0.77.
REPETITION_THRESHOLD = 0.25
COPY_THRESHOLD = 0.8
# Words; single characters in scripts that put no space between words; runs of punctuation; line breaks.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_TOKEN = regex.compile(rf"(?V1)[{_UNSPACED}]|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+|[^\p{{L}}\p{{M}}\p{{N}}\s]+|\n")


def is_faithful(answer: str, language: str) -> bool:
    """Whether the answer is written in the language.

    The mean over answers is the response-level counterpart of Marchisio et al.'s (2024) line-level pass rate, arXiv
    2406.20052.

    Raises:
        LensflowError: the language is unknown, or the detector cannot tell it.
    """
    if not is_identifiable(language):
        raise LensflowError(f"language {language!r}: the detector cannot tell it; leave its generation benchmark out")
    return identify(answer) == base_code(language)


def is_empty(answer: str) -> bool:
    """Whether the answer has no letter of any script."""
    return not scripts_in(answer)


def repetition(answer: str) -> float:
    """Share of duplicate n-grams, 1 - (unique n-grams) / (n-grams).

    This is seq-rep-n of Welleck et al. (2020), arXiv 1908.04319. n is 4, as there, over words, or characters where a
    script puts no space between words (Chinese, Japanese, Thai); runs of punctuation and line breaks are tokens as
    well, for a model also loops in these. An answer too short for two separate 4-grams (under 8 tokens) is measured
    with n of half its length, but at least 2, so that 妈妈 repeats nothing.
    """
    tokens = _TOKEN.findall(answer.casefold())
    n = min(4, max(2, len(tokens) // 2))
    ngrams = list(zip(*(tokens[start:] for start in range(n)), strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def is_repetitive(answer: str) -> bool:
    """Whether at least a quarter of the answer's n-grams are duplicates: about what a sentence said twice comes to."""
    return repetition(answer) >= REPETITION_THRESHOLD


def copies_prompt(answer: str, prompt: str) -> bool:
    """Whether the answer gives back the prompt, all of it or its greater part.

    Their longest common substring (ignoring case and kinds of white space) must cover `COPY_THRESHOLD` of the shorter
    of the two and half of the prompt: a short answer that the prompt offers ("the sun or the moon?") is no copy, nor
    is one that takes up the question's wording.
    """
    answer, prompt = (" ".join(text.casefold().split()) for text in (answer, prompt))
    common = SequenceMatcher(None, answer, prompt, autojunk=False).find_longest_match().size
    return common > 0 and common >= max(COPY_THRESHOLD * min(len(answer), len(prompt)), len(prompt) / 2)
