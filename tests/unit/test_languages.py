import json
import random
import string
import unicodedata
from importlib.resources import files

import numpy as np
import pytest

from lensflow.errors import LensflowError
from lensflow.languages import (
    MAX_CHARACTERS,
    UNKNOWN,
    are_one,
    base_code,
    english_name,
    identify,
    is_identifiable,
    script,
    script_masks,
    script_of,
    scripts,
    scripts_in,
)

CORPUS_LANGUAGES = ["en", "zh", "ja", "ko", "ar", "bn", "sw"]


@pytest.fixture(scope="module")
def corpus() -> list[dict]:
    folder = files("lensflow.data") / "corpus"
    return [
        json.loads(line)
        for split in ("train", "dev", "test")
        for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@pytest.mark.parametrize(
    ("language", "system", "letters", "name"),
    [
        ("en", "Latn", {"Latn"}, "English"),
        ("zh", "Hans", {"Hani"}, "Chinese"),
        ("zh-Hant", "Hant", {"Hani"}, "Traditional Chinese"),
        ("zh-TW", "Hant", {"Hani"}, "Chinese"),
        ("ja", "Jpan", {"Hani", "Hira", "Kana"}, "Japanese"),
        ("ko", "Kore", {"Hang"}, "Korean"),
        ("ar", "Arab", {"Arab"}, "Arabic"),
        ("he", "Hebr", {"Hebr"}, "Hebrew"),
        ("bn", "Beng", {"Beng"}, "Bangla"),
        ("sw", "Latn", {"Latn"}, "Swahili"),
        ("sr", "Cyrl", {"Cyrl"}, "Serbian"),
        ("sr-Latn", "Latn", {"Latn"}, "Serbian"),
    ],
)
def test_properties_of_a_language(language, system, letters, name):
    assert (script(language), scripts(language), english_name(language)) == (
        system,
        letters,
        name,
    )


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("swahili", "'sw'"),  # a name
        ("Englsh", "'en'"),  # a misspelt name
        ("jp", "'ja'"),  # a country
        ("zz", "ISO 639"),
        ("", "ISO 639"),
        ("sw!", "ISO 639"),
        ("klingonese dialect", "ISO 639"),
    ],
)
@pytest.mark.parametrize("function", [base_code, script, scripts, english_name, is_identifiable])
def test_an_unknown_language_names_itself_and_a_remedy(function, wrong, hint):
    with pytest.raises(LensflowError) as error:
        function(wrong)
    message = str(error.value)
    assert repr(wrong) in message and hint in message and "\n" not in message


@pytest.mark.parametrize(
    ("first", "second", "one"),
    [
        ("iw", "he", True),
        ("zh", "zh-Hans", True),
        ("eng", "en", True),
        ("zh", "zh-Hant", False),
        ("pt", "pt-BR", False),
        ("no", "nb", False),
    ],
)
def test_two_codes_of_one_language(first, second, one):
    assert are_one(first, second) == one


@pytest.mark.parametrize(("alias", "code"), [("iw", "he"), ("eng", "en"), ("swa", "sw"), ("no", "no")])
def test_an_old_or_longer_code_is_the_languages(alias, code):
    assert (base_code(alias), scripts(alias), english_name(alias)) == (code, scripts(code), english_name(code))


def test_every_letter_of_a_script_is_named_after_it():
    # The Unicode name of a character begins with its script, an independent source for these seven.
    first_word = {"LATIN": "Latn", "CJK": "Hani", "HIRAGANA": "Hira", "KATAKANA": "Kana", "HANGUL": "Hang"}
    first_word |= {"ARABIC": "Arab", "BENGALI": "Beng"}
    wrong = []
    for code_point in range(0x10000):
        char = chr(code_point)
        word = unicodedata.name(char, "-").split()[0]
        if (
            unicodedata.category(char) in {"Ll", "Lu", "Lo"}
            and word in first_word
            and script_of(char) != first_word[word]
        ):
            wrong.append(char)
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", {}),
        (" \n\t", {}),
        ("3 × 4 = 12!?", {}),
        ("「…」", {}),
        ("😀👍🏽", {}),
        ("ラーメン", {"Kana": 3}),  # the long mark belongs to both kana
        ("東京へ行く AI", {"Hani": 3, "Hira": 2, "Latn": 2}),
        ("কী?", {"Beng": 2}),  # a letter and its vowel sign
        ("١٢٣", {}),  # Arabic digits
        ("e\u0301", {"Latn": 1}),  # the accent is shared by scripts
        ("서울 Seoul", {"Hang": 2, "Latn": 5}),
    ],
)
def test_scripts_in(text, count):
    assert scripts_in(text) == count


@pytest.mark.parametrize("language", CORPUS_LANGUAGES)
def test_identifies_the_embedded_corpus(corpus, language):
    for part in ("prompt", "answer"):
        texts = [row[part][language] for row in corpus if row.get(part)]
        assert len(texts) >= 100
        assert sum(identify(text) == language for text in texts) / len(texts) >= 0.97


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", UNKNOWN),
        (" \n \n ", UNKNOWN),
        ("12 + 30 = 42.", UNKNOWN),
        ("«—»!?", UNKNOWN),
        ("😀😀", UNKNOWN),
        ("ok", UNKNOWN),
        ("la la la la la", UNKNOWN),
        ("Paris, London, Tokyo", UNKNOWN),
        ("1. Drink water.\n2. Sleep well and long.\n3. Go out every day.", "en"),
        ("使用Python的pandas库读取数据。", "zh"),
        ("DNAは遺伝情報を運ぶ分子です。", "ja"),
        ("日本の首都", "ja"),
        ("서울은 대한민국(Republic of Korea)의 수도이며 가장 큰 도시입니다.", "ko"),
        ("The word 北京 means northern capital in English.", "en"),
        ("The Korean word 서울 and the Arabic word مدينة both name a place.", "en"),
        ("هذا الكتاب مفيد جدا", "ar"),
        ("این کتاب بسیار مفید است و من آن را دوست دارم", "fa"),
        ("यह किताब बहुत अच्छी है और मुझे पसंद है", "hi"),
        ("ဒီစာအုပ်က အရမ်းကောင်းတယ်", "my"),  # a script that only CLDR knows
        ("ဒီစာအုပ်က အရမ်းကောင်းတယ် Python", "my"),
        ("¿Dónde está la biblioteca más cercana?", "es"),
        ("Wo ist die nächste Bibliothek, bitte?", "de"),
    ],
)
def test_identify(text, language):
    assert identify(text) == language


def test_identify_reads_the_beginning_only():
    german = "Das ist ein ganz gewöhnlicher deutscher Satz. "
    beginning = german * (MAX_CHARACTERS // len(german) + 1)
    assert identify(beginning + "これは日本語の文です。" * 1000) == "de"
    assert identify(" \n" * MAX_CHARACTERS + german) == "de"  # white space does not use up the room


def test_is_identifiable():
    assert all(map(is_identifiable, ["sw", "zh", "zh-Hant", "pt-BR", "my", "am"]))
    assert not any(map(is_identifiable, ["sr-Latn", "as", "ne", "yue", "dz"]))


def test_script_masks_by_hand():
    tokens = ["ab", " ab", "東", "東a", "カー", "ー", "1", "", "é", "東かカ", "한", "\n", "ab1", "か。"]
    target, latin = script_masks(tokens, "ja")
    assert [token for token, chosen in zip(tokens, target, strict=True) if chosen] == ["東", "カー", "東かカ", "か。"]
    assert [token for token, chosen in zip(tokens, latin, strict=True) if chosen] == ["ab", " ab", "é", "ab1"]


@pytest.mark.parametrize("language", ["zh", "ja", "ko", "ar", "bn", "ru"])
def test_script_masks_against_the_letters_one_by_one(language):
    rng = random.Random(0)
    alphabet = string.ascii_letters + "0! ー東京かなカナ한국عربবাংларусü"
    tokens = ["".join(rng.choices(alphabet, k=rng.randint(0, 3))) for _ in range(3000)]
    target, latin = script_masks(tokens, language)
    assert target.dtype == latin.dtype == np.bool_ and target.shape == latin.shape == (3000,)
    assert target.any() and latin.any() and not (target & latin).any()
    for token, in_target, in_latin in zip(tokens, target, latin, strict=True):
        letters = [char for char in token if script_of(char) != "Zyyy"]
        assert in_target == (letters != [] and all(script_of(char) in scripts(language) for char in letters))
        assert in_latin == (letters != [] and all(script_of(char) == "Latn" for char in letters))


def test_script_masks_reject_latin_languages():
    with pytest.raises(LensflowError, match=r"'sw'.*Latin"):
        script_masks(["a"], "sw")
