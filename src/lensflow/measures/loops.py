"""Loops: answers that repeat themselves, in any script, inside a word or across words.

Loops are found in the characters, so the search needs neither spaces nor words. The text is normalised first: NFC, case
folding, one space for white space and punctuation, no list markers. `performance/outcomes.py` measures how many
published completions and embedded references this flags.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise

import numpy as np
import regex

GRAM = 4  # characters; what is searched for an earlier occurrence
CANDIDATES = 8  # periods that are tried: the most frequent distances between equal grams
# (width of a gram, which occurrence of it, share of all grams that are at least this one) of a loop: a quarter of the
# text is three words said a fourth time, or half of it is seven words said again. A song says its chorus three times.
SAID = ((16, 4, 0.25), (36, 2, 0.5))
LONG = 30  # width of a unit that says a sentence
CUT = 1.5  # times that a long unit is said at least
OVERLAP = 24  # width of what is said again of it
PHRASE = 2.4  # times that a phrase is said at the end
CUT_LINES = 1.75  # if it is several lines: a song says its chorus before and after a verse
MANY = 8  # times that a word at the end is said, however long the text before it is
RUN = 12  # marks of one kind in a row that count as said over and over
COUNTED = 12  # least width of a unit for each number that counts up in it: "Chapter 1, Chapter 2" is no loop

# Markers of list items: "1." "2)" "(3)" "১।" "①" "一、" "a)" "iv." "-" "•" at the start of a line;
# numbers with a mark after a sentence.
_BULLET = r"[-*•·‣–—>#+]+"
_NUMBER = r"(?:\(?\p{Nd}{1,4}(?:[.):、．）।։]|\.\))+|[①-⑳㈠-㈩]|第?[一二三四五六七八九十]{1,3}[、，：.)）])"
_LETTER = r"\(?(?:\p{L}|[ivx]{1,5})[.)）]"
_LINE_MARKER = regex.compile(rf"^[ \t]*(?:(?:{_BULLET}|{_NUMBER}|{_LETTER})[ \t]*)+", regex.M)
_INLINE_MARKER = regex.compile(rf"(?<=[.!?。！？।][ \t]*){_NUMBER}(?!\p{{Nd}})[ \t]*")
# Tags, also one that is cut off at the end; special tokens of models; entities.
_TAG = regex.compile(r"</?\w[^<>\n]{0,60}(?:>|\s*$)|<\|\w+\|>|\[/?INST\]|&\w{2,8};")
_MARK = regex.compile(r"[^\p{L}\p{M}\p{N}\s]")
_SAME_MARKS = regex.compile(rf"({_MARK.pattern})(?:\s*\1){{{RUN - 1},}}")
_DIGITS = regex.compile(r"\p{Nd}+")
_PLACEHOLDER = "\0"  # of a number
_STOP = regex.compile(r"[.!?…。！？．।॥۔؟።။។៕:：>]")  # ends a sentence, a label or a tag
_WIDE = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]")
_LETTERS = regex.compile(r"[\p{L}\p{M}\p{N}]")


@dataclass(frozen=True)
class Repetition:
    """A part of a text that repeats one unit.

    Attributes:
        start: first character of the part.
        end: end of the part; the last unit may be cut off.
        period: length of the unit, in characters.
    """

    start: int
    end: int
    period: int


def is_loop(answer: str) -> bool:
    """Whether the answer repeats itself, from its start or only at its end."""
    if 2 * sum(len(run[0]) for run in _SAME_MARKS.finditer(answer)) >= len(answer) > 0:
        return True
    text = normalised(answer) or _plain(answer)  # list markers alone, such as "1. 1. 1."
    if _is_stuck(text, repetitions(text), _starts(answer)):
        return True
    counted = _DIGITS.sub(_PLACEHOLDER, text)
    if counted != text:
        numbers = [int(number) for number in _DIGITS.findall(text)]
        counting = (found for found in repetitions(counted) if _counts_up(counted, numbers, found))
        if _is_stuck(counted, counting, frozenset()):
            return True
    return _often_said(text)


def once(answer: str) -> str:
    """The answer with repeated text kept once.

    A detector reads this text, because repetition would make it too confident.
    """
    found = max(repetitions(answer), key=lambda repetition: repetition.end - repetition.start, default=None)
    if found is None or found.end - found.start < 2 * found.period:
        return answer
    return answer[: found.start + found.period] + answer[found.end :]


def width(text: str) -> int:
    """The amount of text: number of letters, marks and digits; characters of Han, kana and Hangul count twice."""
    return sum(map(_width_of, text))


@cache
def _width_of(char: str) -> int:
    return 2 if _WIDE.match(char) else int(bool(_LETTERS.match(char)))


def without_tags(text: str) -> str:
    """The text with a space for each tag, special token and entity: "<br>", "</s>", "[INST]", "&nbsp;"."""
    return _TAG.sub(" ", text)


def normalised(text: str) -> str:
    """The text in the form in which loops are searched; line breaks are kept."""
    return _plain(_without_markers(text))


def _without_markers(text: str) -> str:
    """The text in NFC and small letters, without list markers."""
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return _INLINE_MARKER.sub("", _LINE_MARKER.sub("", text))


def _starts(text: str) -> frozenset[int]:
    """The places in the normalised text where sentences and lines begin."""
    lines = _without_markers(text).splitlines()
    sentences = (_plain(sentence) for line in lines for sentence in _STOP.split(line))
    return frozenset([0, *accumulate(len(sentence) + 1 for sentence in sentences if sentence)])


def _plain(text: str) -> str:
    """The text with one space for white space and punctuation; line breaks are kept."""
    return "\n".join(filter(None, (" ".join(line.split()) for line in _MARK.sub(" ", text).splitlines())))


def repetitions(text: str) -> Iterator[Repetition]:
    """For each likely period, the longest part of the text with this period, and the part at the end with it."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    for period, _ in _distances(text).most_common(CANDIDATES):
        different = np.flatnonzero(codes[period:] != codes[:-period])
        ends = np.concatenate([different, [len(codes) - period]])
        starts = np.concatenate([[0], different + 1])
        for place in {int(np.argmax(ends - starts)), len(ends) - 1}:
            yield Repetition(int(starts[place]), int(ends[place]) + period, period)


def _distances(text: str) -> Counter[int]:
    """The distance from each gram back to the last equal one: distance -> number of grams."""
    last: dict[str, int] = {}
    distances: Counter[int] = Counter()
    for start in range(len(text) - GRAM + 1):
        gram = text[start : start + GRAM]
        if gram in last:
            distances[start - last[gram]] += 1
        last[gram] = start
    return distances


def _is_stuck(text: str, repeated: Iterable[Repetition], starts: frozenset[int]) -> bool:
    """Whether a repetition is a loop: it covers nearly all of the text, most of it, or its end."""
    upto = [0, *accumulate(map(_width_of, text))]  # width of the text before each place
    return any(_is_loop_in(text, upto, found, starts) for found in repeated)


def _is_loop_in(text: str, upto: list[int], found: Repetition, starts: frozenset[int]) -> bool:
    unit = upto[found.start + found.period] - upto[found.start]
    all_units = upto[found.end] - upto[found.start]
    of_lines = "\n" in text[found.start : found.start + found.period].strip()
    # A long unit may be cut off the second time.
    is_long = unit >= LONG and all_units - unit >= OVERLAP and not _is_ending(found, starts)
    if unit == 0 or all_units < (2 if not is_long else CUT_LINES if of_lines else CUT) * unit:
        return False
    share, times = all_units / upto[-1], all_units / unit
    if share >= 0.8 and (unit >= 10 or (times >= 3 and all_units >= 12)):
        return True
    if upto[-1] - upto[found.end] <= 2:  # at the end
        # A song says its last line or stanza twice, prose does not.
        twice = unit >= LONG and (share >= 0.6 or not of_lines)
        phrase = times >= PHRASE and unit >= 12 and share >= 0.3
        many = times >= MANY and all_units >= 24
        return twice or phrase or many or (times >= 4 and all_units >= 40 and share >= 0.2)
    return times >= 4 and all_units >= 40 and share >= 0.5


def _is_ending(found: Repetition, starts: frozenset[int]) -> bool:
    """Whether two sentences only end in the same words: "Fish live in the sea. Whales live in the sea." """
    again = found.start + found.period
    if found.start in starts or any(again <= place < found.end for place in starts):  # a whole sentence is said again
        return False
    return any(found.start < place < again for place in starts)


def _counts_up(counted: str, numbers: list[int], found: Repetition) -> bool:
    """Whether a repetition is a numbered list: numbers that change by 1, and enough other text for each."""
    unit = counted[found.start : found.start + found.period]
    first = counted.count(_PLACEHOLDER, 0, found.start)
    inside = numbers[first : first + counted.count(_PLACEHOLDER, found.start, found.end)]
    steps = {after - before for before, after in pairwise(inside)}
    return width(unit) >= COUNTED * unit.count(_PLACEHOLDER) > 0 and steps in ({1}, {-1})


def _often_said(text: str) -> bool:
    """Whether too much of the text repeats earlier text.

    This finds loops whose units differ slightly, grow or alternate.
    """
    letter = 2 if 2 * width(text) > 3 * len(_LETTERS.findall(text)) else 1  # most letters are wide
    return any(_share_said(text, length // letter, times) >= share for length, times, share in SAID)


def _share_said(text: str, length: int, times: int) -> float:
    """Share of the text's grams of a given length that repeat a gram for the `times`-th time or later."""
    grams = [text[start : start + length] for start in range(len(text) - length + 1)]
    often = {gram: count for gram, count in Counter(grams).items() if count >= times and 2 * width(gram) >= length}
    return sum(count - times + 1 for count in often.values()) / max(1, len(grams))
