"""A bank of phrases, and where a text stands in it, letter by letter.

The letters of all phrases are one sorted list. A place in it is a beginning of phrases, found by bisection, so that a
bank of 100,000 is built in a fraction of a second and a step costs the same whatever its size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TypeVar

from .text import BREAK, fold, forms, letters_and_breaks

PLAIN, SPELLED = 1, 2  # how a phrase may have been written so far: as words, or letter by letter
SPELLED_LETTERS = 3  # from how many letters "a b c" is taken for a word that is spelled out
_SHELF = 4  # letters by which phrases are kept together, so that bisection looks at a few of them
_PLACES = 1 << 16  # remembered; what comes after is found again
_FEW = 64  # phrases of which a place knows what follows
AHEAD = 2  # letters of that; with one, twice as many tokens are looked up
_LAST = chr(0x10FFFF)

Value = TypeVar("Value")


class Place:
    """The beginning of some phrases. letters: of it; phrases: theirs; whole: whether it is one of them; breaks: whether
    one of them has a break after it; follow: the next AHEAD letters of each, None where there are too many to look."""

    __slots__ = ("breaks", "closing", "follow", "letters", "phrases", "whole")

    def __init__(self, letters: str, phrases: Sequence[str], whole: bool, breaks: bool):
        self.letters, self.phrases, self.whole, self.breaks = letters, phrases, whole, breaks
        at = len(letters)
        few = len(phrases) < _FEW
        self.follow = frozenset([phrase[at : at + AHEAD] for phrase in phrases]) if few else None
        self.closing: dict[tuple[int, bool], frozenset[int]] = {}  # for whoever asks twice


Begun = tuple[Place, int]
"""A phrase that has begun: its beginning, and in which ways it may have been written so far (PLAIN | SPELLED)."""


class Bank:
    """Phrases by their letters. Breaks in a text must be breaks of the phrase, or stand around every letter.

    phrases: as they are written; those without a letter or digit are told by ``empty``
    """

    def __init__(self, phrases: Iterable[str]):
        written: dict[str, str] = {}
        breaks: set[str] = set()  # beginnings after which a phrase has a break
        self.empty: list[str] = []
        for phrase in phrases:
            found = forms(phrase)
            if not found:
                self.empty.append(phrase)
            for form in found:
                letters, at = letters_and_breaks(form)
                written.setdefault(letters, phrase)
                breaks.update([letters[:i] for i in at])
        self.letters = sorted(written)
        self._written, self._breaks = written, breaks
        self._shelves: dict[str, tuple[int, int]] = {}
        begin = 0
        for shelf, own in groupby(self.letters, key=lambda letters: letters[:_SHELF]):
            end = begin + sum(1 for _ in own)
            self._shelves[shelf] = begin, end
            begin = end
        self._places: dict[str, Place | None] = {}

    def last_words(self) -> Iterator[tuple[str, str]]:
        """For every phrase of several words the letters before its last word, and that word as it is written."""
        for letters, phrase in self._written.items():
            word = phrase.split()[-1]
            before = len(letters) - len(fold(word).replace(BREAK, ""))
            if letters[:before] in self._breaks:
                yield letters[:before], word

    def __len__(self) -> int:
        return len(self.letters)

    def __contains__(self, letters: str) -> bool:
        return letters in self._written

    def place(self, letters: str, among: Sequence[str] | None = None) -> Place | None:
        """Where phrases stand that begin with these letters; None where none does. among: sorted, where all are."""
        if letters in self._places:
            return self._places[letters]
        phrases = self.letters if among is None else among
        begin, end = 0, len(phrases)
        if among is None and len(letters) >= _SHELF:
            begin, end = self._shelves.get(letters[:_SHELF], (0, 0))
        first = bisect_left(phrases, letters, begin, end)
        found = None
        if first < end and phrases[first].startswith(letters):
            own = phrases[first : bisect_left(phrases, letters + _LAST, first, end)]
            found = Place(letters, own, letters in self._written, letters in self._breaks)
        if len(self._places) >= _PLACES:
            self._places.clear()
        self._places[letters] = found
        return found

    def rests(self, place: Place, heads: Mapping[str, Value], longest: int) -> list[tuple[str, Value]]:
        """What may be left of its phrases, as far as ``heads`` have it, of no more than ``longest`` letters."""
        at, end = len(place.letters), len(place.letters) + longest
        rests = [letters[at:] for letters in place.phrases if len(letters) <= end]
        return [(rest, heads[rest]) for rest in rests if rest in heads]

    def read(
        self, runs: Sequence[str], broken: bool, begun: tuple[Begun, ...], fresh: bool = False
    ) -> tuple[bool, tuple[Begun, ...]]:
        """What has begun after a piece of folded text, and whether a break is the last thing in it.

        runs: the text, split at its breaks; broken, begun: the same before it
        fresh: whether a phrase may also begin here without a break, as where a prompt ends
        """
        for i, run in enumerate(runs):
            if i and not broken:
                broken, begun = True, _broken(begun)
            if run:
                begun, broken = self._run(run, broken, begun, fresh and not i), False
        return broken, begun

    def _run(self, run: str, broken: bool, begun: tuple[Begun, ...], fresh: bool) -> tuple[Begun, ...]:
        """Letters without a break among them."""
        found = []
        for place, ways in begun:
            if not broken or len(run) > 1:
                ways &= PLAIN
            if not ways:
                continue
            if (longer := self.place(place.letters + run, place.phrases)) is not None:
                found.append((longer, ways))
        if (broken or fresh) and (new := self.place(run)) is not None:
            found.append((new, PLAIN if len(run) > 1 else PLAIN | SPELLED))
        return tuple(found)

    def ends(self, place: Place, ways: int, rest: str, breaks: tuple[int, ...], broken: bool) -> bool:
        """Whether a phrase that has begun ends with ``rest``, the letters of a text that has breaks at these places.

        place, ways: how far it is; breaks: counted in letters of ``rest``; broken: whether a break stands before it in
        the text as it is
        """
        if ways & PLAIN:
            if not breaks or (breaks == (0,) and (broken or place.breaks)):
                return True
            if all(place.letters + rest[:at] in self._breaks or (at == 0 and broken) for at in breaks):
                return True
        spelled = {*breaks} | ({0} if broken or not place.letters else set())
        return bool(ways & SPELLED) and len(place.letters + rest) >= SPELLED_LETTERS and spelled == {*range(len(rest))}


def _broken(begun: tuple[Begun, ...]) -> tuple[Begun, ...]:
    """What still may be a phrase when a break follows."""
    kept = [(place, ways if place.breaks else ways & SPELLED) for place, ways in begun]
    return tuple([one for one in kept if one[1]])
