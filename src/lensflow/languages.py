"""Facts about languages: names, scripts, and the language in which a text is written.

Every language that CLDR names works by its code; no list is written by hand. Scripts are ISO 15924 codes (`Latn`,
`Hani`). Languages are BCP 47 codes (`sw`, `zh-Hant`), which equal the ISO 639-1 code if the language has one.
"""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import cache, lru_cache

import numpy as np
from babel import Locale
from babel.core import get_global, parse_locale
from babel.localedata import locale_identifiers
from fontTools import unicodedata as scripts_database  # type: ignore[import-untyped]
from lingua import IsoCode639_1, Language, LanguageDetector, LanguageDetectorBuilder
from numpy.typing import NDArray

from lensflow.errors import LensflowError

UNKNOWN = "unknown"
LATIN = frozenset({"Latn"})
MAX_CHARACTERS = 300
# Low, because the detector's 75 candidates share one unit of probability: short, plainly English prompts score 0.11 to
# 0.3. Below it stands what no reader could tell either ("ok", "la la la", "Paris, London"). A test holds it against the
# embedded corpus.
MINIMUM_CONFIDENCE = 0.1
# CLDR's writing systems that are a variant or a mixture of Unicode scripts. (Korean is written in Hangul alone today.)
_PARTS = {
    "Hans": frozenset({"Hani"}),
    "Hant": frozenset({"Hani"}),
    "Jpan": frozenset({"Hani", "Hira", "Kana"}),
    "Kore": frozenset({"Hang"}),
}
# Languages that a detector confuses or that have two codes: members of one macrolanguage of ISO 639-3, and aliases.
_MACROLANGUAGES = (
    frozenset({"no", "nb", "nn"}),
    frozenset({"id", "ms"}),
    frozenset({"bs", "hr", "sr"}),
    frozenset({"fil", "tl"}),
)
_UNSPECIFIC = {"Zyyy", "Zinh", "Zzzz"}  # common, inherited, unassigned
_NAMES: dict[str, str] = dict(Locale("en").languages)
_LIKELY: dict[str, str] = get_global("likely_subtags")
_ALIASES: dict[str, str] = get_global("language_aliases")
_SCRIPTS, _TERRITORIES = Locale("en").scripts, Locale("en").territories


def base_code(language: str) -> str:
    """The language without its script and region: `zh-Hant` is `zh`.

    Raises:
        LensflowError: CLDR does not know the language.
    """
    return _parse(language)[0]


def script(language: str) -> str:
    """The writing system, as CLDR has it: `Latn`, `Hans`, `Jpan`, ….

    Raises:
        LensflowError: CLDR does not know the language.
    """
    return _parse(language)[1]


def scripts(language: str) -> frozenset[str]:
    """The Unicode scripts of the language's letters: {`Hani`} for zh, {`Hani`, `Hira`, `Kana`} for ja, {`Latn`} for sw.

    Raises:
        LensflowError: CLDR does not know the language.
    """
    system = script(language)
    return _PARTS.get(system, frozenset({system}))


def are_one(first: str, second: str) -> bool:
    """Whether two codes name the same language and writing system: `zh` and `zh-Hans` do, `pt` and `pt-BR` do not.

    Raises:
        LensflowError: CLDR does not know a language.
    """
    return _parse(first) == _parse(second)


def english_name(language: str) -> str:
    """CLDR's English name: `Swahili`, `Bangla`, `Traditional Chinese`.

    Raises:
        LensflowError: CLDR does not know the language.
    """
    return _NAMES.get(language.replace("-", "_")) or _NAMES[base_code(language)]


def names(language: str) -> frozenset[str]:
    """What people call the language, in lower case: CLDR's English name, lingua's and its own (bangla, bengali, বাংলা).

    Raises:
        LensflowError: CLDR does not know the language.
    """
    code = base_code(language)
    others = {one.name for one in Language.all() if one.iso_code_639_1.name.lower() == code}
    own = Locale(code).get_display_name(code) if code in locale_identifiers() else None
    return frozenset(name.lower() for name in (english_name(language), *others, own) if name)


def code_named(name: str) -> str:
    """The code of a language by CLDR's or lingua's English name (bangla, bengali: bn), by its own name (বাংলা), or by
    another spelling of its tag (BN, ben_Beng, bn_BD: bn-BD); anything else as it is."""
    codes = {language.name.lower(): language.iso_code_639_1.name.lower() for language in Language.all()}
    codes |= {english.lower(): code.replace("_", "-") for code, english in _NAMES.items()}
    return codes.get(name.lower()) or _spelt(name) or _code_of_own_name(name) or name


def _spelt(tag: str) -> str | None:
    """A tag as BCP 47 spells it: the shortest code of the language, and its script if that is not the usual one or a
    variant; None if CLDR does not know the language."""
    try:
        code, territory, system, *_ = parse_locale(tag.replace("_", "-"), sep="-")
    except ValueError:
        return None
    alias = _ALIASES.get(code, "")
    code = alias if alias.isalpha() else code
    if code not in _NAMES or code not in _LIKELY:
        return None
    return "-".join(
        filter(None, (code, None if system not in _PARTS and system == script(code) else system, territory))
    )


def _code_of_own_name(name: str) -> str | None:
    """The code of a language by the name that its speakers use; reading all of these takes a second."""
    codes = (code for code in locale_identifiers() if name and code.isalpha())
    return next((code for code in codes if name.lower() == (Locale(code).get_display_name(code) or "").lower()), None)


def script_of(char: str) -> str:
    """The Unicode script of one character; `Zyyy` (common), `Zinh` (inherited) or `Zzzz` (unassigned)."""
    return str(scripts_database.script(char))


def scripts_in(text: str) -> Counter[str]:
    """Number of letters of the text in each script.

    Letters and vowel signs (categories L and M) count if they belong to one script. Digits, punctuation, emoji
    and marks that several scripts share do not count.
    """
    return Counter(name for name in map(letter_script, text) if name)


def identify(text: str) -> str:
    """The language of the text, or `UNKNOWN` if it has no letters or the detector is not confident.

    The script decides first. A script that the detector does not know belongs to the language that CLDR gives as the
    likeliest (Mymr: my). Otherwise lingua reads the first `MAX_CHARACTERS` with all of its 75 languages, so that a text
    in a wrong language is not forced into a wanted one. We chose lingua over fastText's lid.176.ftz, which reads only
    70 % of the embedded Swahili prompts as Swahili, against 99 %. Some languages are unknown to lingua although it
    knows their script (Assamese, Nepali), and some texts are romanised: these are taken for a neighbour; see
    `is_identifiable`. The first call loads about 1 GB.
    """
    text = _readable(text)
    letters = scripts_in(text)
    if not letters:
        return UNKNOWN
    [(dominant, _)] = letters.most_common(1)
    if dominant not in _detected_scripts():
        return likeliest_language(dominant)
    best, confidence = next(iter(confidences(text).items()))
    return best if confidence >= MINIMUM_CONFIDENCE else UNKNOWN


def confidences(text: str) -> dict[str, float]:
    """Confidence of lingua in each of its 75 languages, code -> share, the likeliest first, for a text with letters."""
    values = _detector().compute_language_confidence_values(_readable(text))
    return {value.language.iso_code_639_1.name.lower(): value.value for value in values}


def reads_as(texts: Sequence[str], languages: Sequence[str]) -> str:
    """Which of the given languages texts are written in, as far as scripts and lingua can separate these languages.

    Args:
        texts: texts in one language; the first ones are read together.
        languages: the possible languages, in order of preference.

    Returns:
        A language, or `UNKNOWN` if no language or several languages fit.
    """
    sample = unicodedata.normalize("NFC", " ".join(" ".join(texts[:40]).split()))[:2000]
    letters = scripts_in(sample)
    [(dominant, _)] = letters.most_common(1) or [(UNKNOWN, 0)]
    here = [language for language in languages if dominant in scripts(language)]
    by_code: dict[str, list[str]] = {}
    for language in here:
        for code in lingua_codes(language):
            by_code.setdefault(code, []).append(language)
    told = {language for found in by_code.values() for language in found}
    if len(here) == 1:
        return here[0]
    if len(by_code) < 2 or set(here) != told:
        return UNKNOWN
    detector = LanguageDetectorBuilder.from_languages(
        *(Language.from_iso_code_639_1(getattr(IsoCode639_1, code.upper())) for code in by_code)
    ).build()
    best = detector.compute_language_confidence_values(sample)[0]
    found = by_code[best.language.iso_code_639_1.name.lower()]
    return found[0] if best.value > 0.9 and len(found) == 1 else UNKNOWN


def lingua_codes(language: str) -> frozenset[str]:
    """The codes that lingua may give for the language in its script: close relatives that lingua cannot tell apart.

    Relatives belong to one macrolanguage of ISO 639-3. Empty if lingua does not know the language in this script.

    Raises:
        LensflowError: CLDR does not know the language.
    """
    code = base_code(language)
    related = next((group for group in _MACROLANGUAGES if code in group), frozenset({code}))
    return frozenset(c for c in related & _detected_languages() if scripts(c) == scripts(language))


def others_in(names: AbstractSet[str]) -> frozenset[str]:
    """The codes of lingua's languages that are written in one of these scripts."""
    return frozenset(code for code in _detected_languages() if scripts(code) & names)


def likeliest_language(script_name: str) -> str:
    """The language that CLDR holds likeliest for a script, an ISO 15924 code; `UNKNOWN` if CLDR names none."""
    return _LIKELY.get(f"und_{script_name}", UNKNOWN).split("_")[0]


def is_written_in(text: str, language: str) -> bool:
    """Whether Chinese text has the characters of the tag's script, `zh-Hant` or `zh-Hans`; True for other languages.

    A plain `zh` may be either. A character is simplified if only GB 2312 contains it, and traditional if only Big5
    contains it. Text without such characters counts as both.

    Raises:
        LensflowError: CLDR does not know the language.
    """
    if scripts(language) != {"Hani"} or "-" not in language.replace("_", "-"):
        return True
    simplified = sum(_is_encoded(char, "gb2312") and not _is_encoded(char, "big5") for char in text)
    traditional = sum(_is_encoded(char, "big5") and not _is_encoded(char, "gb2312") for char in text)
    return simplified <= traditional if script(language) == "Hant" else traditional <= simplified


def is_in_jis(text: str) -> bool:
    """Whether JIS X 0208, the usual characters of Japanese, contains all Chinese characters of the text."""
    return all(_is_encoded(char, "shift_jis") for char in text if letter_script(char) == "Hani")


@cache
def _is_encoded(char: str, encoding: str) -> bool:
    try:
        return len(char.encode(encoding)) == 2
    except UnicodeEncodeError:
        return False


def _readable(text: str) -> str:
    """The beginning of a text in the form that detectors read: composed (NFC), with single spaces."""
    return unicodedata.normalize("NFC", " ".join(text.split()))[:MAX_CHARACTERS]


def is_identifiable(language: str) -> bool:
    """Whether `identify` can return this language in this script.

    Raises:
        LensflowError: CLDR does not know the language.
    """
    code = base_code(language)
    in_usual_script = scripts(language) == scripts(code)
    return in_usual_script and (code in _detected_languages() or {code} == set(map(likeliest_language, scripts(code))))


def script_masks(tokens: Sequence[str], language: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of V decoded vocabulary entries are in the language's scripts, and which in Latin script: two (V,) masks.

    An entry counts if it has a letter and all of its letters belong to these scripts.

    Raises:
        LensflowError: the language is written in Latin script, so that both masks would be the same, or CLDR does not
            know it.
    """
    target = scripts(language)
    if target == LATIN:
        raise LensflowError(f"language {language!r}: written in Latin script, so it has no script mass; leave it out")
    found = _scripts_of(tuple(tokens))
    return (
        np.array([bool(names) and names <= target for names in found], dtype=np.bool_),
        np.array([names == LATIN for names in found], dtype=np.bool_),
    )


@lru_cache(maxsize=1)  # a second or so for 262 k entries, which every language of an evaluation needs
def _scripts_of(tokens: tuple[str, ...]) -> list[frozenset[str]]:
    return [frozenset(scripts_in(token)) for token in tokens]


@lru_cache(maxsize=1000)  # every answer asks for the same few
def _parse(language: str) -> tuple[str, str, str | None]:
    """Language, writing system and region of a BCP 47 code. CLDR's likely subtags give a missing writing system."""
    try:
        code, territory, system, *_ = parse_locale(language.replace("_", "-"), sep="-")
    except ValueError:
        code = territory = system = None
    if not (code in _NAMES and code in _LIKELY) and code in _ALIASES:
        # An old or a longer code of the language: iw is he, eng is en, sh is sr_Latn, prs is fa_AF.
        code, own_territory, own_system, *_ = parse_locale(_ALIASES[code])
        territory, system = territory or own_territory, system or own_system
    if code not in _NAMES or code not in _LIKELY:
        hint = suggestion(language) or "write its ISO 639 code, such as 'sw' for Swahili"
        raise LensflowError(f"language {language!r}: unknown code; {hint}")
    if system not in (None, *_SCRIPTS) or territory not in (None, *_TERRITORIES):
        raise LensflowError(f"language {language!r}: unknown script or region; write {code!r}, or such as 'sr-Latn'")
    return code, system or _LIKELY.get(f"{code}_{territory}", _LIKELY[code]).split("_")[1], territory


def suggestion(language: str) -> str | None:
    """A question for the code that was meant by another spelling of it, by a country's code, or by a name, correctly
    spelt or not; None if nothing is close."""
    meant = code_named(language)
    if meant == language or not _spelt(meant):
        meant = _LIKELY.get(f"und_{language.upper()}", "").split("_")[0]
    if not meant:
        codes = {name.lower(): code for code, name in _NAMES.items() if code in _LIKELY}
        close = difflib.get_close_matches(language.lower(), codes, n=1, cutoff=0.8)
        if not close:
            return None
        meant = codes[close[0]]
    return f"did you mean {meant!r} ({english_name(meant)})?"


@cache
def letter_script(char: str) -> str | None:
    """The script of a letter or vowel sign; None for other characters."""
    name = script_of(char)
    return name if unicodedata.category(char)[0] in "LM" and name not in _UNSPECIFIC else None


@cache
def _detector() -> LanguageDetector:
    return LanguageDetectorBuilder.from_all_languages().build()


@cache
def _detected_languages() -> frozenset[str]:
    return frozenset(language.iso_code_639_1.name.lower() for language in Language.all())


@cache
def _detected_scripts() -> frozenset[str]:
    return frozenset().union(*map(scripts, _detected_languages()))
