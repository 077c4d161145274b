"""Answerers that need no model: what they are worth is known, so that each measure can be held against them.

Every validation shows them beside the models: the reference must be usable, and each other one must fail where it is
made to fail.
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
    """The item's own reference."""
    return items[place].answer[language]


def echo(items: Sequence[Item], place: int, language: str) -> str:
    """The question."""
    return items[place].prompt[language]


def loop(items: Sequence[Item], place: int, language: str) -> str:
    """The reference again and again."""
    return " ".join([items[place].answer[language]] * LOOP)


def english(items: Sequence[Item], place: int, language: str) -> str:
    """The English reference, whatever the language."""
    del language
    return items[place].answer["en"]


def other_item(items: Sequence[Item], place: int, language: str) -> str:
    """The reference of the next item: good language, wrong content."""
    return items[(place + 1) % len(items)].answer[language]


def empty(items: Sequence[Item], place: int, language: str) -> str:
    """Nothing."""
    del items, place, language
    return ""


def wrong_script(items: Sequence[Item], place: int, language: str) -> str:
    """The reference in a language of another script: Korean, for Korean Arabic."""
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
