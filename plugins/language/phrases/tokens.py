"""Which tokens would finish a phrase: how far texts have come in a bank, token by token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from conceptguard.generation.decoding import Vocabulary
from conceptguard.text.folding import BREAK, as_words, fold, letter_runs
from conceptguard.text.grid import Columns
from conceptguard.text.letters import complete

from .bank import BROKEN, PLAIN, SPELLED, Bank, Begun, Place
from .vocabulary import Head, phrase_vocabulary

STATES = 1 << 16  # remembered: how far texts have come
CONTEXT = 4  # letters of a phrase before its last word from which the word is not even begun
UNREADABLE = "\ufffd"
NOTHING = np.zeros(0, dtype=np.int64)


Read = tuple[int, tuple[Begun, ...]]
"""A gap and what has begun, as in State."""


class Run(NamedTuple):
    """A run of tokens that are bytes. before: what was read until then; own: with its letters; spoilt: whether a byte
    is no part of a letter."""

    before: Read
    own: Read
    spoilt: bool


class State:
    """How far a text has come. gap: whether a letter is the last thing said, a mark (APART) or a space (BROKEN); fresh:
    a phrase may begin here all the same, since a prompt or a special token ends; rest: bytes of a letter that is not
    complete; begun: phrases that have begun, the longest first; run: where the last tokens are bytes.

    plain: no gap, nor fresh, nor with a rest or a run: what a token begins here depends on the token alone
    follow: then the letters that what has begun may go on with, None where there are too many to know
    closing: the tokens that would finish a phrase, None until somebody asks
    """

    __slots__ = ("begun", "closing", "follow", "fresh", "gap", "plain", "rest", "run")

    def __init__(self, gap: int, fresh: bool, rest: bytes, begun: tuple[Begun, ...], run: Run | None = None):
        self.gap, self.fresh, self.rest, self.begun, self.run = gap, fresh, rest, begun, run
        self.plain = not (gap or fresh or rest or run)
        follow = [place.follow for place, _ in begun] if self.plain else [None]
        self.follow = None if None in follow else follow[0] if len(follow) == 1 else frozenset().union(*follow)
        self.closing: np.ndarray | None = None


class PhraseTokens:
    """A bank read by one tokenizer: after what which tokens end a phrase. A step costs the same whatever its size."""

    def __init__(self, bank: Bank, vocabulary: Vocabulary):
        self.bank, self.vocabulary = bank, vocabulary
        read = phrase_vocabulary(vocabulary, bank.signs)
        self._read, self._said, self._starts = read, read.said, read.starts
        self._openings = self._last_words()
        # Whole phrases inside one token: wherever it stands, or where it follows a break.
        self.always = Columns(self._phrases_in(read.inner))
        self._after_break = self._phrases_in(read.first)
        self._states: dict[tuple[Any, ...], State] = {}
        self._next: dict[tuple[State, int, bool], State] = {}
        self.start = self._state(BROKEN, False, b"", ())
        self._beginnings = [None if said is None or said[1] or i in vocabulary.bytewise else self._beginning(said[0])
                            for i, said in enumerate(self._said)]  # fmt: skip
        for state in {id(s): s for s in self._beginnings if s is not None}.values():
            self.closing(state)

    def _phrases_in(self, heads: Iterable[Head]) -> list[int]:
        nothing = Place("", self.bank.letters, False, False)
        found = (
            h
            for h in heads
            if h.letters in self.bank and self.bank.ends(nothing, PLAIN | SPELLED, h.letters, h.breaks, h.gaps, BROKEN)
        )
        return sorted({token for head in found for token in head.tokens})

    def advance(self, state: State, token: int, first: bool) -> State:
        """The next state. first: of a text of its own, which may begin where a prompt ends."""
        alone = self._beginnings[token] if state.plain and not first and token < len(self._beginnings) else None
        # Nearly always no phrase that has begun goes on with the token.
        if alone is not None and (
            not state.begun
            or (state.follow is not None and (start := self._starts[token]) and start not in state.follow)
        ):
            return alone
        known = self._next.get((state, token, first))
        if known is None:
            if len(self._next) >= STATES:
                self._next.clear()
            known = self._next[state, token, first] = self._advance(state, token, first)
        return known

    def _advance(self, state: State, token: int, first: bool) -> State:
        said = self._said[token] if token < len(self._said) else None
        if said is None:  # a special token: nothing on paper, and yet a place where something may begin
            return self._state(state.gap, True, state.rest, state.begun, state.run)
        own, fresh = self.vocabulary.pieces[token] or b"", state.fresh or first
        runs, rest = said
        if state.rest:
            text, rest = complete(state.rest + own)
            runs = fold(text).split(BREAK)
        read, run = (state.gap, state.begun), None
        if token in self.vocabulary.bytewise:
            before = state.run or Run(read, read, False)
            read = self.bank.read(runs, *before.own, fresh)
            # A text of its own is read without the bytes that a prompt ends with.
            spoilt = UNREADABLE in "".join(runs) or (first and UNREADABLE in complete(own)[0])
            run = Run(before.before, read, before.spoilt or spoilt)
            if run.spoilt:
                read = self._unread(run, read)
        else:
            if state.run and state.rest:
                read = self._unread(state.run, read)
            read = self.bank.read(runs, *read, fresh)
        return self._state(read[0], fresh and runs == [""], rest, read[1], run)

    def _unread(self, run: Run, read: Read) -> Read:
        """The same where nobody can read a run: some tokenizers show all of it as signs, others keep its letters."""
        gap, begun = self.bank.read([UNREADABLE], *run.before)
        both = sorted({*read[1], *begun}, key=lambda one: (-len(one[0].letters), one[0].letters, one[1]))
        return max(read[0], gap), tuple(both)

    def _beginning(self, runs: list[str]) -> State:
        """What a token begins by itself where no break stands before it."""
        gap, begun = self.bank.read(runs, 0, ())
        return self._state(gap, False, b"", begun)

    def fresh(self, state: State) -> State:
        """The same where a prompt ends: a phrase may begin here."""
        return self._state(state.gap, True, state.rest, state.begun, state.run)

    def halves(self, state: State) -> bool:
        """Whether a word has begun that a phrase would go on with, and nothing else was said of it."""
        return not state.gap and bool(state.begun) and any(map(self.glues, self.closing(state).tolist()))

    def _state(self, *key: Any) -> State:
        """One state for all texts that are as far, so that what has been found of it is found once."""
        found = self._states.get(key)
        if found is None:
            if len(self._states) >= STATES:
                self._states.clear()
            found = self._states[key] = State(*key)
        return found

    def closing(self, state: State) -> np.ndarray:
        """Tokens that would finish a phrase that has begun here, or begins: int64."""
        if state.closing is None:
            found = sorted(self._closing(state))
            state.closing = np.array(found, dtype=np.int64) if found else NOTHING
        return state.closing

    def leads(self, token: int) -> bool:
        """Whether a token begins with a space: a word cannot go on with it."""
        said = self._said[token] if token < len(self._said) else None
        return said is None or (not said[0][0] and len(said[0]) > 1)

    def text(self, ids: Sequence[int]) -> str:
        """The letters of tokens, folded, without whatever stands between them."""
        return "".join(self._read.letters[i] for i in ids if i < len(self._read.letters))

    def glues(self, token: int) -> bool:
        """Whether a token begins with a letter, so that a word goes on with it."""
        said = self._said[token] if token < len(self._said) else None
        return said is not None and said[0][0][:1].isalnum()

    def blank(self, token: int) -> bool:
        """Whether a token is spaces alone, behind which a word would begin that nearly always has its own."""
        piece = (self.vocabulary.pieces[token] if token < len(self.vocabulary.pieces) else None) or b""
        return piece != b"" and not piece.strip(b" ")

    def spaces(self, token: int) -> bool:
        """Whether a token is nothing but what stands between letters."""
        said = self._said[token] if token < len(self._said) else None
        return said is not None and not said[1] and not self._read.letters[token]

    def _closing(self, state: State) -> set[int]:
        found: set[int] = set()
        gap, begun = state.gap, state.begun
        if state.rest:  # completed by the tokens of ``tails``; before any other it is a sign that nobody can read
            found = {token for token in self._read.tails if self._finishes(state, token)}
            gap, begun = self.bank.read([UNREADABLE], gap, begun)
            if state.run:
                gap, begun = self._unread(state.run, (gap, begun))
        for place, ways in begun:
            found.update(self._finish(place, ways, gap))
        if gap or state.fresh:
            found.update(self._after_break)
        return found

    def _finishes(self, state: State, token: int) -> bool:
        """Whether a token that completes a letter also finishes a phrase at the end of one of its words."""
        text, _ = complete(state.rest + (self.vocabulary.pieces[token] or b""))
        gap, begun = state.gap, state.begun
        for i, run in enumerate(letter_runs(fold(text))):
            gap, begun = self.bank.read(["", ""] if run == BREAK else [run], gap, begun, state.fresh and not i)
            if run != BREAK and any(place.whole for place, _ in begun):
                return True
        return False

    def _finish(self, place: Place, ways: int, gap: int) -> frozenset[int]:
        known = place.closing.get((ways, gap))
        if known is None:
            found: set[int] = set()
            for rest, places in self.bank.rests(place, self._read.heads, self._read.longest):
                for breaks, gaps, tokens in places:
                    if self.bank.ends(place, ways, rest, breaks, gaps, gap):
                        found.update(tokens)
            if ways & PLAIN:
                found.update(self._openings.get(place.letters, ()))
            known = place.closing[ways, gap] = frozenset(found)
        return known

    def _last_words(self) -> dict[str, tuple[int, ...]]:
        """Tokens that begin a phrase's last word where all before it has been said: the text turns before the word.

        Of a word that is one token nothing can be half said.
        """
        whole = set(self.vocabulary.pieces)
        last: dict[str, list[str]] = defaultdict(list)
        for before, word in self.bank.last_words():
            if len(before) >= CONTEXT and f" {word}".encode() not in whole:
                last[word].append(before)
        found: dict[str, tuple[int, ...]] = {}
        letters = self._read.letters
        for (word, befores), ids in zip(last.items(), self.vocabulary.encode([f" {word}" for word in last])):
            token = next((i for i in ids if i < len(letters) and letters[i]), None)
            if token is not None and as_words(word).replace(BREAK, "").startswith(letters[token]):
                for before in befores:
                    found[before] = (*found.get(before, ()), token)
        return found
