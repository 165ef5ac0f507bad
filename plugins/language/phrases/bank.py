"""A bank of phrases, and where a text stands in it, letter by letter.

The letters of all phrases are one sorted list. A place in it is a beginning of phrases, found by bisection, so that a
bank of 100,000 is built in a fraction of a second and a step costs the same whatever its size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TypeVar

from conceptguard.text.folding import BREAK, letter_runs, letters_and_breaks, separates

from .text import GAP, forms, lost

PLAIN, SPELLED = 1, 2  # how a phrase may have been written so far: as words, or letter by letter
APART, BROKEN = 1, 2  # what stands between two letters: any mark, at which a word may go on, or a space
SPELLED_LETTERS = 3  # from how many letters "a b c" is taken for a word that is spelled out
TAIL = 4  # letters of the rest of a word that is known again
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
        self.closing: dict[tuple[int, int], frozenset[int]] = {}  # for whoever asks twice


Begun = tuple[Place, int]
"""A phrase that has begun: its beginning, and in which ways it may have been written so far (PLAIN | SPELLED)."""


class Bank:
    """Phrases by their letters, and by the signs that belong to them. Spaces in a text must be breaks of the phrase, or
    stand around every letter; other marks may stand anywhere, also inside of a word.

    phrases: as they are written. empty: those without a letter, digit or sign; short: those of which one or two letters
    are left, and what; signs: that any of them has
    """

    def __init__(self, phrases: Iterable[str]):
        written: dict[str, str] = {}
        breaks: set[str] = set()  # beginnings after which a phrase has a break
        self.empty: list[str] = []
        self.short: dict[str, str] = {}
        for phrase in phrases:
            found = forms(phrase)
            if not found:
                self.empty.append(phrase)
            for form in found:
                if lost(phrase, form):
                    self.short[phrase] = form
                letters, at = letters_and_breaks(form)
                written.setdefault(letters, phrase)
                breaks.update([letters[:i] for i in at])
        self.letters = sorted(written)
        self.signs = frozenset(c for c in {*"".join(self.letters)} if c == GAP or separates(c))
        self._written, self._breaks = written, breaks
        self._tails: set[str] | None = None  # made when somebody asks
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
            for form in forms(word):
                own = form.replace(BREAK, "")
                if letters.endswith(own) and letters[: -len(own)] in self._breaks:
                    yield letters[: -len(own)], word
                    break

    def mangled(self, word: str) -> bool:
        """Whether a word is the rest of a phrase that is one word, behind a beginning that is not the phrase's."""
        if self._tails is None:
            self._tails = {letters[at:] for letters in self._written if letters.isalpha()
                           for at in range(1, 1 + min(len(letters) - TAIL, len(letters) // 2))}  # fmt: skip
        return any(word[at:] in self._tails for at in range(len(word) - TAIL + 1))

    def __len__(self) -> int:
        return len(self.letters)

    def __contains__(self, letters: str) -> bool:
        return letters in self._written

    def written(self, letters: str) -> str:
        """The phrase of these letters, as it is written."""
        return self._written[letters]

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
            found = Place(letters, own, letters in self._written, letters in self._breaks or letters.endswith(GAP))
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
        self, runs: Sequence[str], gap: int, begun: tuple[Begun, ...], fresh: bool = False
    ) -> tuple[int, tuple[Begun, ...]]:
        """What has begun after a piece of folded text, and what is the last thing in it: a letter (0), APART or BROKEN.

        runs: the text, split at its breaks; gap, begun: the same before it
        fresh: whether a phrase may also begin here without a break, as where a prompt ends
        """
        for i, run in enumerate(runs):
            if i and gap < BROKEN:
                gap, begun = BROKEN, (*_broken(begun), *(() if gap else self._with(begun, GAP)))
            if run.isalnum():
                begun, gap = self._run(run, gap, begun, fresh and not i), 0
            elif run:
                gap, begun = self._joined(run, gap, begun, fresh and not i)
        return gap, begun

    def _joined(self, word: str, gap: int, begun: tuple[Begun, ...], fresh: bool) -> tuple[int, tuple[Begun, ...]]:
        """Letters with marks among them."""
        for part in letter_runs(word):
            if not separates(part):
                begun, gap, fresh = self._run(part, gap, begun, fresh), 0, False
                continue
            own: tuple[Begun, ...] = () if gap else self._with(begun, GAP)
            if part in self.signs:
                own = (*own, *self._with(begun, part))
                if (new := self.place(part)) is not None:
                    own = (*own, (new, PLAIN))
                gap = APART  # what it belongs to may end at the next space
            begun, gap = (*own, *begun), max(gap, APART)
        return gap, begun

    def _with(self, begun: tuple[Begun, ...], sign: str) -> tuple[Begun, ...]:
        """Those that go on with a sign."""
        if sign not in self.signs:
            return ()
        found = ((self.place(place.letters + sign, place.phrases), ways) for place, ways in begun)
        return tuple([(place, PLAIN) for place, ways in found if place is not None and ways & PLAIN])

    def _run(self, run: str, gap: int, begun: tuple[Begun, ...], fresh: bool) -> tuple[Begun, ...]:
        """Letters without a mark among them."""
        found = []
        for place, ways in begun:
            if not gap or len(run) > 1:
                ways &= PLAIN
            if not ways:
                continue
            if (longer := self.place(place.letters + run, place.phrases)) is not None:
                found.append((longer, ways))
        if (gap or fresh) and (new := self.place(run)) is not None:
            found.append((new, PLAIN if len(run) > 1 else PLAIN | SPELLED))
        return tuple(found)

    def ends(
        self, place: Place, ways: int, rest: str, breaks: tuple[int, ...], gaps: tuple[int, ...], gap: int
    ) -> bool:
        """Whether a phrase that has begun ends with ``rest``, the letters of a text that has breaks at these places.

        place, ways: how far it is; breaks, gaps: spaces, and whatever is no letter, counted in letters of ``rest``
        gap: what stands before it in the text as it is
        """
        if ways & PLAIN:
            if not breaks or (breaks == (0,) and (gap == BROKEN or place.breaks)):
                return True
            if all(place.letters + rest[:at] in self._breaks or (at == 0 and gap == BROKEN) for at in breaks):
                return True
        spelled = {*gaps} | ({0} if gap or not place.letters else set())
        return bool(ways & SPELLED) and len(place.letters + rest) >= SPELLED_LETTERS and spelled == {*range(len(rest))}


def _broken(begun: tuple[Begun, ...]) -> tuple[Begun, ...]:
    """What still may be a phrase when a break follows."""
    kept = [(place, ways if place.breaks else ways & SPELLED) for place, ways in begun]
    return tuple([one for one in kept if one[1]])
