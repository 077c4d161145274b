"""Copies: answers that repeat the prompt, and answers without the sentences that they copied from it.

Each sentence of the answer is aligned with each sentence of the prompt. Case, accents, vowel points, full and half
width, and white space do not matter. Matching blocks consist of words, or of characters in scripts without spaces
between words. A sentence that repeats one of the prompt's is copied. A few words that the prompt offers as an option do
not count as copied.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

import regex

from lensflow.measures.loops import width, without_tags

SHORTEST = 8  # width of a copied sentence at least: "coffee" may be meant
NOTHING_NEW = 0.95  # share of a sentence that is taken, where it says nothing of its own
ALTERED = 0.6  # share of a sentence that is taken, and of the prompt's that it repeats, where a word was changed
REPEATED = 0.5  # share of the prompt's sentence that is repeated at least, unless it is `LONG`
LONG = 50  # width of a part of a sentence that is copied, though it is not half of it

# Where a sentence ends: at its mark (and closing quotes), at a line break, after the colon of a label.
_ENDS = regex.compile(r"(?<=[.!?؟।;:՞።]['\"”»)]*)\s+|(?<=[。！？：])|(?<=[?!؟])(?=\p{L})|\s*\n\s*")
_QUESTION = regex.compile(r"[?？؟;՞፧][\s\"'”»）)\]*]*$")
_ENDED = regex.compile(r"[.!。！।።][\s\"'”»）)\]*]*$")
_LABEL = regex.compile(r"[:：][\s*]*$")
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(rf"(?V1)[{_UNSPACED}]|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+")
# What a text may lack when it is written again: accents, vowel points, joiners; and letters that stand for another.
_POINTS = regex.compile(r"(?V1)[\p{M}&&[\p{Inherited}\p{Hebrew}]]|[\p{Cf}ـ]")
_SAME = str.maketrans("يىكıđ", "ییکid")


def _words(text: str) -> list[str]:
    """The words of a text, in the form in which they are compared."""
    plain = _POINTS.sub("", unicodedata.normalize("NFKD", text.casefold()))
    return _WORD.findall(unicodedata.normalize("NFC", plain.translate(_SAME)))


# Question words. In some languages they open a question, and a sentence that opens with the same one asks again ("what"
# is left out: "What cows eat is grass"). In others they stand where the answer would, so that a sentence that still has
# one has not answered.
_OPENING = frozenset(
    _words(
        "why where when who how warum wo wann wer wie pourquoi où quand qui comment dónde cuándo quién cómo onde "
        "quando quem perché dove chi waarom waar wanneer hoe почему где когда кто как mengapa kenapa kapan siapa "
        "bagaimana لماذا أين متى كيف"
    )
)
_IN_PLACE = frozenset(
    _words(
        "nini wapi lini nani gani vipi কী কেন কোথায় কখন কীভাবে क्या क्यों कहाँ कहां कब कौन कैसे 무엇 무엇을 무엇이 왜 어디 "
        "어디에 언제 누가 누구 어떻게 어떤 neden nerede nasıl hangi gì đâu"
    )
)
_UNSPACED_IN_PLACE = (
    *("什么", "什麼", "哪里", "哪裡", "怎么", "怎麼", "多少"),
    *("".join(_words(word)) for word in ("なぜ", "どこ", "いつ", "だれ", "どう")),
)


@dataclass(frozen=True)
class Sentence:
    """A sentence of an answer, and whether it repeats a sentence of the prompt."""

    text: str
    is_copied: bool


@dataclass(frozen=True)
class _Alignment:
    """The match of a sentence with one of the prompt's: shares of their widths or words, and the positions of new
    words."""

    of_answer: float
    of_prompt: float
    taken: int
    new_at_end: bool


def copied_share(answer: str, prompt: str) -> float:
    """Share of the answer's letters and digits in sentences that are copied from the prompt; 0 if it has none."""
    found = sentences(answer, prompt)
    total = sum(width(sentence.text) for sentence in found)
    return sum(width(sentence.text) for sentence in found if sentence.is_copied) / total if total else 0.0


def is_copy(answer: str, prompt: str) -> bool:
    """Whether the answer repeats the prompt, all of it or most of it, and adds nothing after that.

    One changed word does not hide a copy. An answer after a repeated question is not a copy. An option that the prompt
    offers ("the sun or the moon?") is not a copy either.
    """
    found = sentences(answer, prompt)
    copied = [place for place, sentence in enumerate(found) if sentence.is_copied]
    if not copied:
        return False
    answered = any(_says_something(sentence.text) for sentence in found[copied[0] :] if not sentence.is_copied)
    return not answered and copied_share(answer, prompt) >= 0.5


def without_copied(answer: str, prompt: str) -> str:
    """The answer without the sentences that repeat the prompt's, and without labels beside these; unchanged if no
    sentence does."""
    found = sentences(answer, prompt)
    if not any(sentence.is_copied for sentence in found):
        return answer
    return "\n".join(one.text for one in found if not one.is_copied and _says_something(one.text))


def takes_option(answer: str, prompt: str) -> bool:
    """Whether the answer consists of words of the prompt that are not all names: an option that the prompt offers."""
    words, of_prompt = _words(answer), _words(prompt)
    starts = range(len(of_prompt) - len(words) + 1)
    named = all(word[0].isupper() for word in _WORD.findall(answer))
    return bool(words) and not named and any(of_prompt[start : start + len(words)] == words for start in starts)


@lru_cache(maxsize=1)  # an outcome asks three times
def sentences(answer: str, prompt: str) -> tuple[Sentence, ...]:
    """The answer's sentences, in order."""
    # The prompt as a whole, too: an answer may draw its sentences together.
    asked = [(text, _words(text)) for text in dict.fromkeys([*_split(prompt), prompt.strip()])]
    asked = [(text, words) for text, words in asked if words]
    parts = list(_split(answer))
    found: list[Sentence] = []
    for place, text in enumerate(parts):
        is_last = place == len(parts) - 1
        copied = [(one.text, _words(one.text)) for one in found if one.is_copied]  # may be said again
        before = next((one for one in reversed(found) if _says_something(one.text)), None)
        goes_on = before is not None and before.is_copied and _continues(text, asked + copied, is_last=is_last)
        found.append(Sentence(text, goes_on or _is_copied(text, asked, is_last=is_last)))
    return tuple(found)


def _split(text: str) -> Iterator[str]:
    text = without_tags(unicodedata.normalize("NFC", text))
    return (part.strip() for part in _ENDS.split(text) if part and part.strip())


def _is_copied(text: str, asked: list[tuple[str, list[str]]], *, is_last: bool) -> bool:
    words = _words(text)
    if not words:
        return False
    cut = is_last and not _ENDED.search(text) and not _QUESTION.search(text)
    return any(_repeats(text, words, question, of_prompt, cut=cut) for question, of_prompt in asked)


def _continues(text: str, asked: list[tuple[str, list[str]]], *, is_last: bool) -> bool:
    """Whether a sentence of any length is one of `asked`, or at the end of the answer the beginning of one."""
    words = _words(text)
    cut = is_last and not _ENDED.search(text)
    return bool(words) and any(_begins(words, of_prompt) if cut else words == of_prompt for _, of_prompt in asked)


def _begins(words: list[str], of_prompt: list[str]) -> bool:
    """Whether words are the first words of the prompt's sentence; the last word may be cut off."""
    end = len(words) - 1
    return words[:-1] == of_prompt[:end] and of_prompt[end : end + 1] != [] and of_prompt[end].startswith(words[-1])


def _repeats(text: str, words: list[str], question: str, of_prompt: list[str], *, cut: bool) -> bool:
    """Whether a sentence repeats one of the prompt's."""
    if cut and len(words) > 1 and words[-1] not in of_prompt and any(w.startswith(words[-1]) for w in of_prompt):
        words = words[:-1]
    if "".join(words) == "".join(of_prompt):  # other spaces
        return width("".join(words)) >= SHORTEST
    if 2 * len(set(words) & set(of_prompt)) < len(set(words)):
        return False
    found = _align(words, of_prompt)
    if found.taken < SHORTEST:
        return False
    if found.of_answer >= NOTHING_NEW:
        return found.of_prompt >= REPEATED or found.taken >= LONG
    if min(found.of_answer, found.of_prompt) < ALTERED:
        return False
    if _QUESTION.search(question):
        # It still asks; else it answers in the question's words.
        return bool(_QUESTION.search(text)) or _asks_again(words, of_prompt)
    return not found.new_at_end or bool(_ENDED.search(question) and _ENDED.search(text))


def _asks_again(words: list[str], of_prompt: list[str]) -> bool:
    """Whether a sentence without a question mark still contains the question word of the prompt's sentence."""
    if words[0] == of_prompt[0] and words[0] in _OPENING:
        return True
    text, asked = "".join(words), "".join(of_prompt)
    return any(word in _IN_PLACE and word in of_prompt for word in words) or any(
        word in text and word in asked for word in _UNSPACED_IN_PLACE
    )


def _align(words: list[str], of_prompt: list[str]) -> _Alignment:
    blocks = SequenceMatcher(None, words, of_prompt, autojunk=False).get_matching_blocks()
    # A single character that both have is chance.
    blocks = [block for block in blocks if width("".join(words[block.a : block.a + block.size])) >= 3]
    taken = sum(width("".join(words[block.a : block.a + block.size])) for block in blocks)
    end = max((block.a + block.size for block in blocks), default=0)
    same = sum(block.size for block in blocks)
    of_answer, of_prompt_ = (max(taken / width("".join(all_)), same / len(all_)) for all_ in (words, of_prompt))
    return _Alignment(of_answer, of_prompt_, taken, end < len(words))


def _says_something(text: str) -> bool:
    """Whether a sentence says more than a label such as "Answer:"."""
    return width(text) >= 2 and not (_LABEL.search(text) and width(text) <= 20)
