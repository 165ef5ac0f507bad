"""What a person reads in a prompt that was written to be read by nobody else.

A phrase is found through look-alikes of other scripts, accents and invisible characters (by folding), digits and
symbols in place of letters, marks, spaces and new lines between letters, letters said again and again, one slip of the
pen, and in other languages. Its place is told in the text as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from conceptguard.text.folding import BREAK, as_words, fold

# What may stand for a letter, beside itself.
_STANDS_FOR = {
    "a": "4@^*", "b": "86", "c": "(<¢", "e": "3€*", "g": "96", "h": "#", "i": "1!|*", "l": "1!|£", "o": "0*",
    "s": "5$", "t": "7+", "u": "*", "y": "¥", "z": "2",
}  # fmt: skip
_SYMBOLS = "".join(sorted({c for own in _STANDS_FOR.values() for c in own if not c.isalnum()}))
_BETWEEN = rf"[^\w{re.escape(_SYMBOLS)}]*"
TYPO_LETTERS = 4  # from how many letters a slip is looked for
LONG = 8  # letters from which a phrase may have two slips


class Found(NamedTuple):
    """A phrase in a text: where it stands there, and what is read."""

    begin: int
    end: int
    phrase: str


class Reader:
    """Finds phrases in texts however they are written.

    phrases: each with other words for it; ordinary: whether a word is an ordinary one, which is no slip of another
    """

    def __init__(self, phrases: Mapping[str, Iterable[str]], ordinary: Callable[[str], bool], typos: bool = True):
        self._ordinary, self._typos = ordinary, typos
        self._said = {"".join(phrase.lower().split()): phrase for phrase in phrases}
        aliases = {phrase: phrase for phrase in phrases}
        aliases |= {other: phrase for phrase, others in phrases.items() for other in others if other not in aliases}
        patterns = [(_pattern(alias), phrase, alias == phrase) for alias, phrase in aliases.items()]
        self._known = [(re.compile(pattern), phrase, own) for pattern, phrase, own in patterns if pattern]

    def find(self, text: str) -> list[Found]:
        """What is read otherwise than it is written, in the order of the text; none of them overlap."""
        folded, places = _folded(text)
        found: list[Found] = []
        for pattern, phrase, own in self._known:
            for match in pattern.finditer(folded):
                begin, end = places[match.start(1)], places[match.end(1) - 1] + 1
                if self._means(text[begin:end], folded[match.start(1) : match.end(1)], phrase, own):
                    found.append(Found(begin, end, phrase))
        if self._typos:
            found += self._slips(folded, places)
        kept: list[Found] = []
        for one in sorted(found, key=lambda f: (f.begin, -f.end)):
            if not kept or one.begin >= kept[-1].end:
                kept.append(one)
        return kept

    def read(self, text: str) -> tuple[str, list[Found]]:
        """The text as it is read, and what was read otherwise than it is written."""
        found, read, at = self.find(text), "", 0
        for one in found:
            read += text[at : one.begin] + one.phrase
            at = one.end
        return read + text[at:], found

    def _means(self, written: str, folded: str, phrase: str, own: bool) -> bool:
        """Whether this is the phrase, and not written so that anybody reads it anyway."""
        if own and written.isascii() and as_words(written).strip() == as_words(phrase).strip():
            return False
        pieces = folded.split()
        if len(pieces) > 1 and not all(len(piece) == 1 for piece in pieces) and " " not in phrase and not own:
            return False  # a short word of another language between two others
        # Digits alone are a number, and stars alone hide any word.
        return not _letters_of(folded) or (any(map(str.isalpha, folded)) and 2 * folded.count("*") <= len(phrase))

    def _slips(self, folded: str, places: Sequence[int]) -> list[Found]:
        found = []
        for match in re.finditer(r"[^\W\d_]+", folded):
            word = match[0]
            if len(word) < TYPO_LETTERS or word in self._said or not word.isascii():
                continue
            near = [phrase for said, phrase in self._said.items() if slips(word, said) <= 1 + (len(said) >= LONG)
                    and len(said) >= TYPO_LETTERS]  # fmt: skip
            if near and not self._ordinary(word):
                found.append(Found(places[match.start()], places[match.end() - 1] + 1, near[0]))
        return found


def _letters_of(folded: str) -> bool:
    """Whether a match has any letter, digit or what stands for one: an emoji has none."""
    return any(c.isalnum() or c in _SYMBOLS for c in folded)


def slips(one: str, other: str) -> int:
    """How many letters are missing, too many, others, or in their neighbour's place; 3 for more than two."""
    if abs(len(one) - len(other)) > 2 or one[0] != other[0]:
        return 3
    before2: list[int] = []
    before = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            cost = min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before2[j - 2] + 1)
            row.append(cost)
        before2, before = before, row
    return min(before[-1], 3)


def _folded(text: str) -> tuple[str, list[int]]:
    """A text folded letter by letter, and for every character of that where it comes from. Symbols that may stand for
    letters are left."""
    letters, places = [], []
    for place, char in enumerate(text):
        for one in char if char in _SYMBOLS else fold(char):
            letters.append(one)
            places.append(place)
    return "".join(letters), places


def _pattern(alias: str) -> str:
    """A pattern whose first group is the alias in a folded text; "" where nothing of it is a letter."""
    letters = [c for c in fold(alias) if c not in (BREAK, "-")]
    if not letters:
        return ""
    runs: list[tuple[str, int]] = []
    for letter in letters:
        if runs and runs[-1][0] == letter:
            runs[-1] = letter, runs[-1][1] + 1
        else:
            runs.append((letter, 1))
    parts = []
    for letter, times in runs:
        own = f"[{re.escape(letter + _STANDS_FOR.get(letter, ''))}]"
        parts.append(f"{own}(?:{_BETWEEN}{own}){{{times - 1},}}")
    whole = _BETWEEN.join(parts)
    return rf"(?<!\w)({whole})(?:e?s)?(?!\w)" if letters[0].isalpha() else f"({whole})"
