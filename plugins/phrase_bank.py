"""A bank of phrases, and where a text stands in it, letter by letter.

The letters of all phrases are one sorted list. A place in it is a beginning of phrases, found by bisection, so that a
bank of 100,000 is built in a fraction of a second and a step costs the same whatever its size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

from .phrase_text import BREAK, fold, forms, letters_and_breaks

PLAIN, SPELLED = 1, 2  # how a phrase may have been written so far: as words, or letter by letter
SPELLED_LETTERS = 3  # from how many letters "a b c" is taken for a word that is spelled out


class Begun(NamedTuple):
    """A phrase that has begun: its letters so far, and in which ways they may have been written (PLAIN | SPELLED)."""

    letters: str
    ways: int


class Bank:
    """Phrases by their letters. Breaks in a text must be breaks of the phrase, or stand around every letter.

    phrases: as they are written; those without a letter or digit are told by ``empty``
    """

    def __init__(self, phrases: Iterable[str]):
        written: dict[str, str] = {}
        self.breaks: set[str] = set()  # beginnings after which a phrase has a break
        self.empty: list[str] = []
        for phrase in phrases:
            found = forms(phrase)
            if not found:
                self.empty.append(phrase)
            for form in found:
                letters, breaks = letters_and_breaks(form)
                written.setdefault(letters, phrase)
                self.breaks.update(letters[:at] for at in breaks)
        self.letters = sorted(written)
        self._written = written

    def last_words(self) -> Iterator[tuple[str, str]]:
        """For every phrase of several words the letters before its last word, and that word as it is written."""
        for letters, phrase in self._written.items():
            word = phrase.split()[-1]
            before = len(letters) - len(fold(word).replace(BREAK, ""))
            if letters[:before] in self.breaks:
                yield letters[:before], word

    def __len__(self) -> int:
        return len(self.letters)

    def __contains__(self, letters: str) -> bool:
        return letters in self._written

    def begins(self, letters: str) -> bool:
        """Whether any phrase begins with these letters."""
        at = bisect_left(self.letters, letters)
        return at < len(self.letters) and self.letters[at].startswith(letters)

    def rests(self, heads: Container[str], longest: int) -> dict[str, list[str]]:
        """For every beginning of a phrase what may be left of it, as far as ``heads``, the longest so long, have it."""
        found: dict[str, list[str]] = {}
        for letters in self.letters:
            for at in range(max(1, len(letters) - longest), len(letters)):
                if (rest := letters[at:]) in heads:
                    found.setdefault(letters[:at], []).append(rest)
        return found

    def read(
        self, folded: str, broken: bool, begun: tuple[Begun, ...], fresh: bool | None = False
    ) -> tuple[bool, tuple[Begun, ...]]:
        """What has begun after a piece of folded text, and whether a break is the last thing in it.

        broken, begun: the same before it
        fresh: whether a phrase may also begin here without a break, as where a prompt ends; None: nothing new begins
        """
        for i, run in enumerate(folded.split(BREAK)):
            if i and not broken:
                broken, begun = True, self._broken(begun)
            if run:
                begun, broken = self._run(run, broken, begun, fresh if fresh is None else fresh and not i), False
        return broken, begun

    def _broken(self, begun: tuple[Begun, ...]) -> tuple[Begun, ...]:
        """What still may be a phrase when a break follows."""
        kept = [b if b.letters in self.breaks else Begun(b.letters, b.ways & SPELLED) for b in begun]
        return tuple(b for b in kept if b.ways)

    def _run(self, run: str, broken: bool, begun: tuple[Begun, ...], fresh: bool | None) -> tuple[Begun, ...]:
        """Letters without a break among them."""
        found = []
        for letters, ways in begun:
            if not broken or len(run) > 1:
                ways &= PLAIN
            if ways and self.begins(letters := letters + run):
                found.append(Begun(letters, ways))
        if fresh is not None and (broken or fresh) and self.begins(run):
            found.append(Begun(run, PLAIN if len(run) > 1 else PLAIN | SPELLED))
        return tuple(found)

    def ends(self, begun: Begun, rest: str, breaks: tuple[int, ...], broken: bool) -> bool:
        """Whether a phrase that has begun ends with ``rest``, the letters of a text that has breaks at these places.

        breaks: counted in letters of ``rest``; broken: whether a break stands before it in the text as it is
        """
        whole = begun.letters + rest
        if begun.ways & PLAIN and all(
            begun.letters + rest[:at] in self.breaks or (at == 0 and broken) for at in breaks
        ):
            return True
        spelled = {*breaks} | ({0} if broken or not begun.letters else set())
        return bool(begun.ways & SPELLED) and len(whole) >= SPELLED_LETTERS and spelled == set(range(len(rest)))
