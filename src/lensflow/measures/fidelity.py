"""Fidelity: whether a text is written in the expected language; None if this cannot be told.

The expected language is known. The question is therefore not "which of 75 languages?" but "this one, or clearly
another?". The script decides first, then lingua together with fastText's lid.176. Names, digits and code tell nothing,
and a text of a few letters tells little; the answer is then None.
"""

import contextlib
import unicodedata
from collections.abc import Iterable
from functools import cache

import regex
from babel import Locale, UnknownLocaleError

from lensflow.errors import LensflowError
from lensflow.languages import (
    LATIN,
    base_code,
    confidences,
    is_in_jis,
    is_written_in,
    letter_script,
    likeliest_language,
    lingua_codes,
    others_in,
    scripts,
    scripts_in,
)
from lensflow.measures.confusion import english_words, is_detectable, label_of, label_scores
from lensflow.measures.loops import width

SURE = 0.1  # confidence of the expected language, if no other has more: 75 languages share one unit
CLEAR = 0.35  # confidence of another language at least, and three times the expected one's, in a wrong language
AGREED = 0.75  # score of lid.176's label, which then decides where lingua is not sure
MAYBE = 0.05  # confidence of the expected language by which lingua does not object to that label, or not much
ENOUGH = 36  # width of a text in which both detectors are right if they agree on another language
CERTAIN = 0.95  # score of lid.176's label for a text in Chinese characters alone, where Japanese is expected
HEADING = 16  # width of a heading, or of an item of such a list, at most
SHORT = 12  # width of a text in which another language is clear at least

_CODE_BLOCK = regex.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", regex.S)
_MARKUP = regex.compile(r"https?://\S+|www\.\S+|\S+@\S+\.\S+|<[^<>\n]{1,60}>|\[/?INST\]|\\[a-zA-Z]+")
_CODE_LINE = regex.compile(
    r"\s*(?:def |class |import |from \w+ import|#include|function |const |let |var |for ?\(|if ?\(|while ?\(|return\b|"
    r"print ?\(|SELECT |INSERT |UPDATE |public |console\.|\$ |>>> )"
)
_DATA_LINE = regex.compile(r"\s*(?:[{}\[]\s*(?:[{}\[\],\"]|$)|\"[^\"\n]{1,40}\"\s*:)")
_CODE_MARKS = regex.compile(r"[{}()\[\]=;<>_+*/\\|&%$#@^~]")
_QUOTED = regex.compile(r"\"([^\"\n]{30,})\"?")
_WORD = regex.compile(r"[\p{L}\p{M}'’ʼ]+")
_SEPARATOR = regex.compile(r"[,،、;\n·•|]|(?<=\w) and (?=\p{Lu})")
_OWN_PART = regex.compile(r"\0(?:\P{L}*\0)*")  # of a text in which each letter in the expected scripts is a zero
_KANA = regex.compile(r"[\p{Hiragana}\p{Katakana}]")
_CAPITALISED = regex.compile(r"(?<![\p{L}\p{M}'’])\p{Lu}[\p{L}\p{M}'’]*")
_INNER_CAPITALISED = regex.compile(r"(?<=[\p{L}\p{M},] )\p{Lu}[\p{L}\p{M}'’]*")  # not at the start of a sentence
_CAPITALISING = {"de", "lb"}  # languages that begin common nouns with a capital
_CASED = {"Latn", "Cyrl", "Grek", "Armn"}

# Words that English sentences are held together by, and other languages lack: published answers of three models in
# eight languages of the Latin script have them in less than 1 % of cases.
_ENGLISH = frozenset(
    _WORD.findall(
        "the is are and of that you with this have they from which your there would because what when been their it "
        "its were but how should than into these has had not it's don't"
    )
)
_VERBS = frozenset({"is", "are", "was", "were", "have", "has", "had"})  # of a short English sentence
_LIKE_ENGLISH = {"en", "sco", "pcm", "jam", "tpi", "bi", "pis", "hwc", "gul", "srn", "kri"}
_OWN = {"nl": {"is", "of", "had", "these"}, "af": {"is", "of", "had"}, "fy": {"is", "of"}, "li": {"is", "of"}}
MIXED = 0.2  # share of such words, of two kinds at least, in a text that is partly English
_QUOTATION = regex.compile(r"[\"“”„«(‘][^\"“”„»)’\n]{1,80}[\"“”»)’]")
# "The Lord of the Rings", "Miguel de Cervantes"
_TITLE = regex.compile(
    r"\p{Lu}[\p{L}'’]*(?:[\s-]+(?:(?:of|the|and|in|to|for|a|on|from|at|with|is) ){0,2}\p{Lu}[\p{L}'’]*)+"
)


def is_faithful(text: str, language: str) -> bool | None:
    """Whether the text is written in the language.

    The mean over answers is the response-level counterpart of Marchisio et al.'s (2024) line-level pass rate, arXiv
    2406.20052.

    Args:
        text: an answer, without what it copied from its prompt.
        language: BCP 47 tag, such as sw, zh-Hant, sr-Latn.

    Returns:
        None if this cannot be told: the text has only names, digits or code, or too few letters.

    Raises:
        LensflowError: the language is unknown, or neither detector can tell it.
    """
    check_detectable(language)
    text = _without_code(unicodedata.normalize("NFC", text))
    expected = scripts(language)
    own, foreign = _only(text, expected), _foreign(text, expected)
    if lingua_codes(language) == {"zh"} and 10 * _kana(text) >= width(text) > 0:
        return False
    if width(foreign) > width(own) and (_is_prose(foreign) or not width(own)):
        return False if _is_prose(foreign) else None
    return _reads(own, language) if scripts_in(own) else None


def check_detectable(language: str) -> None:
    """Check that a detector, or the script alone, can tell the language.

    Raises:
        LensflowError: the language is unknown, or neither detector can tell it.
    """
    if not (lingua_codes(language) or is_detectable(language) or _is_only_one(language)):
        raise LensflowError(f"language {language!r}: no detector can tell it; leave its answers out")


def detector_ceiling(texts: Iterable[str], language: str) -> float:
    """Share of human texts in the language that the detector accepts: the highest score of a perfect model.

    Raises:
        LensflowError: there is no text, or the language cannot be told.
    """
    verdicts = [is_faithful(text, language) for text in texts]
    if not verdicts:
        raise LensflowError(f"language {language!r}: no text to measure the detector's ceiling on; give some")
    return sum(verdict is True for verdict in verdicts) / len(verdicts)


def _is_only_one(language: str) -> bool:
    """Whether CLDR's likeliest language of the script is this one, and lingua knows no language of the script."""
    return {base_code(language)} == {likeliest_language(name) for name in scripts(language) if not others_in({name})}


def _without_code(text: str) -> str:
    """The text without code. If all of an answer is data, such as JSON, the quoted sentences."""
    prose = _MARKUP.sub(" ", _CODE_BLOCK.sub(" ", text))
    prose = "\n".join(line for line in prose.splitlines() if not _is_code(line))
    return prose if width(prose) >= SHORT else "\n".join([prose, *_QUOTED.findall(text)])


def _is_code(line: str) -> bool:
    if _DATA_LINE.match(line):
        return True
    marks, signs = len(_CODE_MARKS.findall(line)), len("".join(line.split()))
    return marks > (0.02 if _CODE_LINE.match(line) else 0.15) * signs and not line.lstrip().startswith(("|", "*", "#"))


def _only(text: str, wanted: frozenset[str]) -> str:
    """The text without letters of other scripts."""
    return "".join(" " if (name := letter_script(char)) and name not in wanted else char for char in text)


def _foreign(text: str, expected: frozenset[str]) -> str:
    """The text in other scripts, without Latin terms inside a sentence: "data से सीखता है" is Hindi."""
    marked = "".join("\0" if letter_script(char) in expected else char for char in text)
    runs = _OWN_PART.split(marked)
    is_sentence = len(runs) > 2  # two parts in the expected scripts at least
    return " ".join(run for run in runs if not (is_sentence and _is_term(run)))


def _is_term(run: str) -> bool:
    """Whether a text between words in other scripts is a term of one or two words."""
    words = _WORD.findall(run.casefold())
    return len(words) <= 2 and scripts_in(run).keys() <= LATIN and _ENGLISH.isdisjoint(words)


def _kana(text: str) -> int:
    """Width of the kana in a text."""
    return 2 * len(_KANA.findall(text))


def _is_prose(text: str) -> bool:
    """Whether a text in another script is more than names, symbols and a single word."""
    letters = scripts_in(text)
    if not letters:
        return False
    if letters.most_common(1)[0][0] not in _CASED:
        return width(text) >= 8
    small = [word for word in _WORD.findall(text) if len(word) >= 2 and word.islower()]
    long = [word for word in _WORD.findall(text) if len(word) >= 3]
    if len(small) >= 3 or len(set(small) & set(long)) >= 2 or (len(small) >= 2 and not _VERBS.isdisjoint(small)):
        return True
    return len(long) >= 6 and not _SEPARATOR.search(text.strip())


def _reads(text: str, language: str) -> bool | None:
    """Whether a text in the language's scripts is in the language."""
    if "Hira" in scripts(language):
        return _is_japanese(text)
    if lingua_codes(language) == {"zh"}:
        return is_written_in(text, language)
    if not others_in(scripts(language)) - lingua_codes(language):
        return not _is_related(text, language)
    if _is_partly_english(text, language):
        return False
    if _is_names(text):
        return _is_vocabulary(text, language) or None
    verdict = _compare(text, language)
    if verdict is None:
        return _compare(_CAPITALISED.sub("", text), language)
    return verdict or _compare(_INNER_CAPITALISED.sub("", text), language)


def _is_japanese(text: str) -> bool | None:
    """Whether a text has kana, or is a heading or a list in Chinese characters that Japanese uses.

    One to three such characters, as in a list of dates, tell nothing if lid.176 is not certain.
    """
    if _kana(text):
        return 10 * _kana(text) >= width(text)
    if not is_in_jis(text):
        return False
    if max(map(width, _SEPARATOR.split(text))) <= HEADING:
        scores = label_scores(text, 2)
        likely = scores.get("zh", 0.0) < AGREED if width(text) <= HEADING else scores.get("ja", 0.0) >= CERTAIN
        if likely:
            return True
    words = dict.fromkeys(_WORD.findall(text))
    few = len(set("".join(words))) <= 3
    return None if few and label_scores(" ".join(words)).get("zh", 0.0) < CERTAIN else False


def _is_related(text: str, language: str) -> bool:
    """Whether lid.176 reads a language in the same script that lingua does not know: Yiddish, Assamese."""
    label, score = next(iter(label_scores(text).items()), ("", 0.0))
    return is_detectable(language) and score >= AGREED and label != label_of(language) and width(text) >= SHORT


def _is_partly_english(text: str, language: str) -> bool:
    """Whether a text that should be in another language contains English sentences or half sentences.

    Detectors of whole texts read "Yes, it is a moto nikiwa nyumba" as Swahili. Titles and quoted text do not count.
    """
    if "Latn" not in scripts(language) or base_code(language) in _LIKE_ENGLISH:
        return False
    words = [word.casefold() for word in _WORD.findall(_TITLE.sub(" ", _QUOTATION.sub(" ", text)))]
    english = [word for word in words if word in _ENGLISH - _OWN.get(base_code(language), set())]
    return len(set(english)) >= 2 and len(english) >= MIXED * len(words)


def _compare(text: str, language: str) -> bool | None:
    """Compare the expected language with the likeliest other one; lid.176 decides if lingua is not sure."""
    if not scripts_in(text):
        return None
    own, other = _scores(text, language)
    label, score = next(iter(label_scores(text).items()), ("", 0.0))
    agreed = score >= AGREED and is_detectable(language) and lingua_codes(language) != frozenset()
    mine = label == label_of(language)
    if (own >= SURE and own >= other) or (agreed and mine and own >= MAYBE and width(text) >= 8):
        return True if width(text) >= 4 else None
    clear = (other >= CLEAR and not (agreed and mine)) or (agreed and not mine and own <= MAYBE)
    if clear and other >= 3 * own and width(text) >= SHORT:
        return False
    both = agreed and not mine and other > own and label_of(next(iter(confidences(text)))) == label
    return False if both and width(text) >= ENOUGH else None


def _scores(text: str, language: str) -> tuple[float, float]:
    """Confidence in the expected language and in the likeliest other one."""
    codes = lingua_codes(language)
    scores = confidences(text) if codes else label_scores(text)
    codes = codes or frozenset({label_of(language)})
    others = (value for code, value in scores.items() if code not in codes)
    return sum(scores.get(code, 0.0) for code in codes), max(others, default=0.0)


def _is_names(text: str) -> bool:
    """Whether each longer word begins with a capital, in a list or in a few words."""
    words = _WORD.findall(text)
    long = [word for word in words if len(word) >= 4]
    small = sum(word[0].islower() for word in words)
    cased = any(word[0].isupper() for word in words)
    few = len(words) <= 5 or 3 * len(_SEPARATOR.findall(text.strip())) >= len(words) - 1
    return cased and few and all(word[0].isupper() for word in long) and 3 * small <= len(words)


def _is_vocabulary(text: str, language: str) -> bool:
    """Whether capitalised words are words of the language, as in a list of fruits, and not names."""
    words = [word.casefold() for word in _WORD.findall(text)]
    names = sum(word in _territory_words(base_code(language)) for word in words)
    if 2 * names >= len(words):
        return False
    if base_code(language) == "en":
        known = sum(word in english_words() or word.removesuffix("s") in english_words() for word in words)
        return 2 * known > len(words)
    if len(words) < 2 or (_INNER_CAPITALISED.search(text) and base_code(language) not in _CAPITALISING):
        return False
    own, other = _scores(text, language)
    agreed = label_scores(text, 1).get(label_of(language), 0.0) >= AGREED
    return own >= 3 * other and own >= (CLEAR / 2 if agreed else CLEAR)


@cache
def _territory_words(code: str) -> frozenset[str]:
    """Words of the names of countries, in the language and in English."""
    names: list[str] = []
    for known in {code, "en"}:
        with contextlib.suppress(UnknownLocaleError):
            names += Locale(known).territories.values()
    return frozenset(word.casefold() for name in names for word in _WORD.findall(name))
