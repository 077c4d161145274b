"""Answerers that need no model and whose quality is known, to test each measure.

Every validation shows them beside the models. The reference must be usable, and each other answerer must fail in its
own way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

LOOP = 12  # times that the loop says its sentence


@dataclass(frozen=True)
class Item:
    """A question in several languages with its reference answers: language -> text."""

    prompt: Mapping[str, str]
    answer: Mapping[str, str]


Answerer = Callable[[Sequence[Item], int, str], str]  # items, place of the one that is asked, language -> answer


def reference(items: Sequence[Item], place: int, language: str) -> str:
    """Answers with the item's own reference."""
    return items[place].answer[language]


def echo(items: Sequence[Item], place: int, language: str) -> str:
    """Answers with the question."""
    return items[place].prompt[language]


def loop(items: Sequence[Item], place: int, language: str) -> str:
    """Answers with the reference, repeated many times."""
    return " ".join([items[place].answer[language]] * LOOP)


def english(items: Sequence[Item], place: int, language: str) -> str:
    """Answers with the English reference in every language."""
    del language
    return items[place].answer["en"]


def other_item(items: Sequence[Item], place: int, language: str) -> str:
    """Answers with the reference of the next item: right language, wrong content."""
    return items[(place + 1) % len(items)].answer[language]


def empty(items: Sequence[Item], place: int, language: str) -> str:
    """Answers with an empty text."""
    del items, place, language
    return ""


def wrong_script(items: Sequence[Item], place: int, language: str) -> str:
    """Answers with the reference in a language of another script: Korean, or Arabic for Korean."""
    return items[place].answer["ar" if language == "ko" else "ko"]


ANSWERERS: Mapping[str, Answerer] = {
    "reference": reference,
    "echo": echo,
    "loop": loop,
    "english": english,
    "other item": other_item,
    "empty": empty,
    "wrong script": wrong_script,
}
