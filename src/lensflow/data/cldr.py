"""The embedded benchmark: four-way questions generated from CLDR, with the same questions in ten languages.

The facts and all names come from the Unicode CLDR data in Babel. Only the question templates and the names of nine
quantities are written here. Questions come in *groups* of four that share one set of four choices. Each choice is the
right answer once. A method that looks only at the choices (the most frequent or the longest text, a language model's
prior, a classifier trained on other groups) therefore gets exactly one of four right, in every language.

This exact balance has a price: three answers of a group determine the fourth. Items of one group (same id up to the
last hyphen) therefore belong on the same side of any split into training, few-shot and test items.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from babel import Locale
from babel.core import get_global
from babel.dates import get_timezone_location
from babel.languages import get_official_languages
from babel.numbers import get_territory_currencies

from lensflow.errors import LensflowError


@dataclass(frozen=True)
class Question:
    """One four-way question in one language; `answer` is the position (0 to 3) of the right choice."""

    id: str
    question: str
    choices: tuple[str, str, str, str]
    answer: int


@dataclass(frozen=True)
class _Kind:
    """How one kind of question is made; all values are CLDR codes until they are named in a language."""

    fact: Callable[[str], str]  # subject -> right answer
    subject: Callable[[Locale, str], str]  # name of a subject
    choice: Callable[[Locale, str], str]  # name of an answer
    groups: tuple[str, ...]  # four subjects each; chosen so that no name leaks an answer in any of the ten languages


def _territory(locale: Locale, code: str) -> str:
    return str(locale.territories[code])


def _language(locale: Locale, code: str) -> str:
    return str(locale.languages[code])


def _currency(locale: Locale, code: str) -> str:
    return str(locale.currencies[code])


def _unit(locale: Locale, code: str) -> str:
    # Babel's public functions do not follow CLDR's rule that a missing long form is the short one.
    patterns, form = locale._data["unit_patterns"][code], locale.plural_form(1)
    pattern = patterns.get("long", {}).get(form) or patterns["short"][form]
    return str(pattern.format("").strip())


def _official_language(territory: str) -> str:
    (language,) = get_official_languages(territory, de_facto=True)
    return str(language)


# CLDR's containment of territories is not in Babel; the first part of a time zone's name says the same.
_REGIONS = {"Africa": "002", "America": "019", "Asia": "142", "Europe": "150"}
_KINDS = {
    "language": _Kind(
        fact=_official_language,
        subject=_territory,
        choice=_language,
        groups=("BR AR EG JM", "CL IR ET AT", "MZ CU IQ BJ", "VE JO CI GH"),
    ),
    "country": _Kind(
        fact=lambda pair: pair.split("-")[1],
        subject=lambda locale, pair: _language(locale, pair.split("-")[0]),
        choice=_territory,
        groups=("pt-AO es-CR ar-OM fr-GA", "pt-CV es-CO fr-TG en-GM", "es-UY ar-KW fr-GN en-SL"),
    ),
    "city": _Kind(
        fact=lambda zone: str(get_global("zone_territories")[zone]),
        subject=lambda locale, zone: get_timezone_location(zone, locale=locale, return_city=True),
        choice=_territory,
        groups=(
            "Asia/Tokyo Africa/Nairobi America/Havana Europe/Warsaw",
            "Africa/Cairo Europe/Madrid Asia/Seoul America/Bogota",
            "Asia/Baghdad Europe/London Africa/Dakar America/Caracas",
            "Europe/Moscow Asia/Jakarta Africa/Lagos America/Lima",
            "Europe/Istanbul Asia/Dhaka Australia/Sydney Europe/Paris",
            "Asia/Bangkok Africa/Accra Europe/Rome America/Toronto",
        ),
    ),
    "region": _Kind(
        fact=lambda territory: _REGIONS[get_global("territory_zones")[territory][0].split("/")[0]],
        subject=_territory,
        choice=_territory,
        groups=("EG PE JP FR", "SN CA VN NO", "GH VE IQ DE", "KE GT TH PL"),
    ),
    "script": _Kind(
        fact=lambda language: str(get_global("likely_subtags")[language].split("_")[1]),
        subject=_language,
        choice=lambda locale, code: str(locale.scripts[code]),
        groups=("ru ur tr hi", "be fa pl sa", "as ps zu yi"),
    ),
    "unit": _Kind(
        fact=lambda unit: unit,
        subject=lambda locale, unit: _QUANTITIES[locale.language][unit.split("-")[0]],
        choice=_unit,
        groups=(
            "length-meter mass-gram duration-minute volume-liter",
            "length-mile mass-ounce area-acre energy-joule",
            "length-inch duration-second pressure-pascal digital-byte",
            "mass-kilogram duration-day volume-gallon energy-calorie",
            "length-kilometer duration-week volume-pint digital-bit",
            "length-yard mass-carat pressure-bar area-acre",
        ),
    ),
    "symbol": _Kind(
        fact=lambda currency: currency,
        subject=lambda _, currency: str(Locale("en").currency_symbols[currency]),
        choice=_currency,
        groups=("EUR INR KRW ILS", "GBP JPY VND PHP"),
    ),
    "currency": _Kind(
        fact=lambda territory: str(get_territory_currencies(territory)[0]),
        subject=_territory,
        choice=_currency,
        groups=("PT PW TV DM",),
    ),
}
# Worded so that a name needs no inflection, article or elision.
_TEMPLATES = {
    "en": {
        "language": "What is the official language of {}?",
        "country": "In which country is {} the official language?",
        "city": "In which country is the city of {}?",
        "region": "In which part of the world is {}?",
        "script": "In which script is {} written?",
        "unit": "What is a unit of {}?",
        "symbol": "Which currency has the symbol {}?",
        "currency": "Which currency is used in {}?",
    },
    "zh": {
        "language": "{}的官方语言是什么？",
        "country": "{}是哪个国家的官方语言？",
        "city": "{}这座城市位于哪个国家？",
        "region": "{}位于世界的哪个地区？",
        "script": "{}使用什么书写系统？",
        "unit": "{}的单位是什么？",
        "symbol": "符号{}代表哪种货币？",
        "currency": "{}使用什么货币？",
    },
    "ja": {
        "language": "{}の公用語は何ですか？",
        "country": "{}が公用語の国はどこですか？",
        "city": "{}はどの国の都市ですか？",
        "region": "{}は世界のどの地域にありますか？",
        "script": "{}の表記に使われるのは何ですか？",
        "unit": "{}の単位は何ですか？",
        "symbol": "{}はどの通貨の記号ですか？",
        "currency": "{}で使われている通貨は何ですか？",
    },
    "ko": {
        "language": "{}의 공용어는 무엇입니까?",
        "country": "{}가 공용어인 나라는 어디입니까?",
        "city": "{}, 어느 나라에 있는 도시입니까?",
        "region": "{}의 위치는 세계의 어느 지역입니까?",
        "script": "{}의 표기에 쓰이는 것은 무엇입니까?",
        "unit": "{}의 단위는 무엇입니까?",
        "symbol": "{} 기호를 쓰는 통화는 무엇입니까?",
        "currency": "{}에서 쓰는 통화는 무엇입니까?",
    },
    "ar": {
        "language": "ما اللغة الرسمية في {}؟",
        "country": "في أي بلد اللغة الرسمية هي {}؟",
        "city": "في أي بلد تقع مدينة {}؟",
        "region": "في أي جزء من العالم توجد دولة {}؟",
        "script": "ما الأبجدية المستخدمة في كتابة {}؟",
        "unit": "ما وحدة قياس {}؟",
        "symbol": "ما العملة التي رمزها {}؟",
        "currency": "ما العملة المستخدمة في {}؟",
    },
    "bn": {
        "language": "{} দেশটির সরকারি ভাষা কী?",
        "country": "কোন দেশের সরকারি ভাষা {}?",
        "city": "{} শহরটি কোন দেশে অবস্থিত?",
        "region": "{} বিশ্বের কোন অঞ্চলে অবস্থিত?",
        "script": "{} ভাষা কোন লিপিতে লেখা হয়?",
        "unit": "{} পরিমাপের একক কী?",
        "symbol": "{} কোন মুদ্রার প্রতীক?",
        "currency": "{} দেশটিতে কোন মুদ্রা ব্যবহৃত হয়?",
    },
    "sw": {
        "language": "Lugha rasmi ya {} ni ipi?",
        "country": "{} ni lugha rasmi ya nchi gani?",
        "city": "Jiji la {} liko katika nchi gani?",
        "region": "{} iko sehemu gani ya dunia?",
        "script": "{} huandikwa kwa maandishi gani?",
        "unit": "Kipimo cha {} ni kipi?",
        "symbol": "Sarafu gani hutumia alama {}?",
        "currency": "Nchini {} hutumika sarafu gani?",
    },
    "es": {
        "language": "¿Cuál es el idioma oficial de {}?",
        "country": "¿En qué país el idioma oficial es el {}?",
        "city": "¿En qué país está la ciudad de {}?",
        "region": "¿En qué parte del mundo está {}?",
        "script": "¿Qué sistema de escritura usa el {}?",
        "unit": "¿Cuál es una unidad de {}?",
        "symbol": "¿Qué moneda tiene el símbolo {}?",
        "currency": "¿Qué moneda se usa en {}?",
    },
    "fr": {
        "language": "Quelle est la langue officielle du pays suivant : {} ?",
        "country": "Quel pays a pour langue officielle la langue suivante : {} ?",
        "city": "Dans quel pays se trouve la ville suivante : {} ?",
        "region": "Dans quelle partie du monde se trouve le pays suivant : {} ?",
        "script": "Quelle écriture utilise la langue suivante : {} ?",
        "unit": "Quelle unité mesure {} ?",
        "symbol": "Quelle monnaie a pour symbole {} ?",
        "currency": "Quelle est la monnaie du pays suivant : {} ?",
    },
    "de": {
        "language": "Welche Amtssprache hat {}?",
        "country": "In welchem Land ist {} Amtssprache?",
        "city": "In welchem Land liegt die Stadt {}?",
        "region": "In welchem Teil der Welt liegt {}?",
        "script": "In welcher Schrift wird {} geschrieben?",
        "unit": "Welche Einheit misst {}?",
        "symbol": "Welche Währung hat das Symbol {}?",
        "currency": "Welche Währung hat {}?",
    },
}
# In the form that the language's template for units takes; the keys are CLDR's unit types.
_UNIT_TYPES = ("length", "mass", "duration", "volume", "area", "pressure", "energy", "digital")
_QUANTITIES: dict[str, dict[str, str]] = {
    language: dict(zip(_UNIT_TYPES, names, strict=True))
    for language, names in {
        "en": ("length", "mass", "time", "volume", "area", "pressure", "energy", "data"),
        "zh": ("长度", "质量", "时间", "体积", "面积", "压强", "能量", "数据量"),
        "ja": ("長さ", "質量", "時間", "体積", "面積", "圧力", "エネルギー", "データ量"),
        "ko": ("길이", "질량", "시간", "부피", "면적", "압력", "에너지", "데이터"),
        "ar": ("الطول", "الكتلة", "الزمن", "الحجم", "المساحة", "الضغط", "الطاقة", "البيانات"),
        "bn": ("দৈর্ঘ্য", "ভর", "সময়", "আয়তন", "ক্ষেত্রফল", "চাপ", "শক্তি", "ডেটা"),
        "sw": ("urefu", "uzito", "muda", "ujazo", "eneo", "shinikizo", "nishati", "data"),
        "es": ("longitud", "masa", "tiempo", "volumen", "superficie", "presión", "energía", "datos"),
        "fr": (
            "la longueur",
            "la masse",
            "le temps",
            "le volume",
            "la superficie",
            "la pression",
            "l’énergie",
            "les données",
        ),
        "de": ("die Länge", "die Masse", "die Zeit", "das Volumen", "die Fläche", "den Druck", "die Energie", "Daten"),
    }.items()
}
LANGUAGES = tuple(_TEMPLATES)


def questions(languages: Sequence[str], seed: int = 0) -> dict[str, list[Question]]:
    """Make the benchmark in each language: same items, same order, same position of the right choice.

    The set of items is fixed. `seed` orders the groups, the items in a group and the choices. The four items of a group
    follow each other. The right choice is once in each of the four positions, so the first 4n items are as balanced as
    the whole.

    Args:
        languages: codes out of `LANGUAGES`; a language does not change the items of another.
        seed: seed of the order.

    Raises:
        LensflowError: a language has no templates.
    """
    for language in languages:
        if language not in _TEMPLATES:
            supported = ", ".join(LANGUAGES)
            raise LensflowError(f"language {language!r}: the cldr benchmark has no templates; use some of {supported}")
    layout = _layout(random.Random(seed))
    return {language: [_render(language, *item) for item in layout] for language in languages}


def _layout(rng: random.Random) -> list[tuple[str, str, list[str], int]]:
    """The items before they are written in a language: id, subject, choices (all as CLDR codes) and the position of the
    answer."""
    groups = [
        (f"{name}-{number}", group.split())
        for name, kind in _KINDS.items()
        for number, group in enumerate(kind.groups, 1)
    ]
    rng.shuffle(groups)
    layout = []
    for group, subjects in groups:
        fact = _KINDS[group.split("-")[0]].fact
        numbers = rng.sample(range(4), 4)
        positions = rng.sample(range(4), 4)
        for number, position in zip(numbers, positions, strict=True):
            choices = [fact(subject) for subject in subjects]
            right = choices.pop(number)
            rng.shuffle(choices)
            choices.insert(position, right)
            layout.append((f"{group}-{number + 1}", subjects[number], choices, position))
    return layout


def _render(language: str, identifier: str, subject: str, choices: list[str], answer: int) -> Question:
    name = identifier.split("-")[0]
    kind, locale = _KINDS[name], Locale(language)
    a, b, c, d = (kind.choice(locale, choice) for choice in choices)
    return Question(identifier, _TEMPLATES[language][name].format(kind.subject(locale, subject)), (a, b, c, d), answer)
