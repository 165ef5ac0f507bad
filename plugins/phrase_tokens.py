"""Which tokens would finish a phrase: the vocabulary of a tokenizer beside a bank of phrases."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import torch

from conceptguard.decoding import Tongue

from .phrase_bank import PLAIN, SPELLED, Bank, Begun
from .phrase_text import BREAK, fold, letters_and_breaks

STATES = 1 << 16  # remembered of a generation: tokens that lead from one place of a text to the next
CONTEXT = 4  # letters of a phrase before its last word from which the word is not even begun


class Place(NamedTuple):
    """Where a text stands. broken: a break is the last thing said; fresh: a phrase may begin here all the same, since a
    prompt or a special token ends; rest: bytes of a letter that is not complete; begun: phrases that have begun, the
    longest first."""

    broken: bool
    fresh: bool
    rest: bytes
    begun: tuple[Begun, ...]


START = Place(True, False, b"", ())


class PhraseTokens:
    """A bank read by one tokenizer: after what which tokens end a phrase. A step costs the same whatever its size."""

    def __init__(self, bank: Bank, tongue: Tongue):
        self.bank, self.tongue = bank, tongue
        read = _vocabulary(tongue)
        self._heads, self._tails, self._said = read.heads, read.tails, read.said
        self._rests = bank.rests(self._heads, max(map(len, self._heads), default=0))
        self._openings = self._last_words()
        # Whole phrases inside one token: wherever it stands, or where it follows a break.
        self.always = torch.tensor(self._phrases_in(read.inner), dtype=torch.long)
        self._after_break = self._phrases_in(read.first)
        self.advance = lru_cache(maxsize=STATES)(self._advance)
        self._alone = lru_cache(maxsize=STATES)(self._beginning)
        self.forbidden = lru_cache(maxsize=STATES)(self._forbidden)
        self._finish = lru_cache(maxsize=STATES)(self._finishing)

    def _phrases_in(self, heads: Iterable[_Head]) -> list[int]:
        nothing = Begun("", PLAIN | SPELLED)
        found = (h for h in heads if h.letters in self.bank and self.bank.ends(nothing, h.letters, h.breaks, True))
        return sorted({token for head in found for token in head.tokens})

    def _advance(self, place: Place, token: int, first: bool) -> Place:
        """The next place. first: of a text of its own, which may begin where a prompt ends."""
        said = self._said[token] if token < len(self._said) else None
        if said is None:  # a special token: nothing on paper, and yet a place where something may begin
            return Place(place.broken, True, b"", place.begun)
        fresh = place.fresh or first
        if not (place.rest or said[1]):
            alone = self._alone(token, place.broken, fresh)
            if not place.begun:
                return alone
            _, kept = self.bank.read(said[0], place.broken, place.begun, None)
            return alone._replace(begun=kept + alone.begun) if kept else alone
        text, rest = _decode(place.rest + (self.tongue.pieces[token] or b""))
        folded = fold(text)
        broken, begun = self.bank.read(folded, place.broken, place.begun, fresh)
        return Place(broken, fresh and not folded, rest, begun)

    def _beginning(self, token: int, broken: bool, fresh: bool) -> Place:
        """What a token begins by itself: the same wherever it stands."""
        said = self._said[token]
        assert said is not None
        after, begun = self.bank.read(said[0], broken, (), fresh)
        return Place(after, fresh and not said[0], b"", begun)

    def _forbidden(self, place: Place) -> tuple[int, ...]:
        """Tokens that would finish a phrase that has begun here, or begins."""
        found: set[int] = set()
        broken, begun = place.broken, place.begun
        if place.rest:  # completed by the tokens of ``_tails``; before any other it is a letter that nobody can read
            found = {token for token in self._tails if self._finishes(place, token)}
            broken, begun = self.bank.read(BREAK, broken, begun)
        for one in begun:
            found.update(self._finish(one, broken))
        if broken or place.fresh:
            found.update(self._after_break)
        return tuple(sorted(found))

    def _finishes(self, place: Place, token: int) -> bool:
        """Whether a token that completes a letter also finishes a phrase at the end of one of its words."""
        text, _ = _decode(place.rest + (self.tongue.pieces[token] or b""))
        broken, begun = place.broken, place.begun
        for i, run in enumerate(fold(text).split(BREAK)):
            broken, begun = self.bank.read(BREAK + run if i else run, broken, begun, place.fresh and not i)
            if run and any(b.letters in self.bank for b in begun):
                return True
        return False

    def _finishing(self, begun: Begun, broken: bool) -> frozenset[int]:
        found: set[int] = set()
        for rest in self._rests.get(begun.letters, ()):
            for breaks, tokens in self._heads[rest]:
                if self.bank.ends(begun, rest, breaks, broken):
                    found.update(tokens)
        if begun.ways & PLAIN:
            found.update(self._openings.get(begun.letters, ()))
        return frozenset(found)

    def _last_words(self) -> dict[str, set[int]]:
        """Tokens that begin a phrase's last word where all before it has been said: the text turns before the word."""
        last = [(before, word) for before, word in self.bank.last_words() if len(before) >= CONTEXT]
        words = sorted({word for _, word in last})
        first = {word: next((i for i in ids if self._letters(i)), None)
                 for word, ids in zip(words, self.tongue.encode([f" {word}" for word in words]))}  # fmt: skip
        found: dict[str, set[int]] = {}
        for before, word in last:
            token = first[word]
            if token is not None and fold(word).replace(BREAK, "").startswith(self._letters(token)):
                found.setdefault(before, set()).add(token)
        return found

    def _letters(self, token: int) -> str:
        said = self._said[token]
        return said[0].replace(BREAK, "") if said else ""


class _Head(NamedTuple):
    """Letters at a place inside of tokens, up to an end of a word, with the breaks among them."""

    letters: str
    breaks: tuple[int, ...]
    tokens: tuple[int, ...]


class _Vocabulary(NamedTuple):
    """heads: letters that tokens begin with -> (breaks, tokens); first: the same where no break stands before them;
    inner: what follows a break inside a token; tails: tokens that begin amid a letter's bytes; said: every token
    folded, and the bytes of a letter that it does not complete; None for special ones."""

    heads: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]]
    first: list[_Head]
    inner: list[_Head]
    tails: tuple[int, ...]
    said: list[tuple[str, bytes] | None]


_known: weakref.WeakKeyDictionary[Tongue, _Vocabulary] = weakref.WeakKeyDictionary()


def _vocabulary(tongue: Tongue) -> _Vocabulary:
    """The tokens of a tokenizer by their letters; found once for each tokenizer."""
    if tongue not in _known:
        _known[tongue] = _read(tongue)
    return _known[tongue]


def _read(tongue: Tongue) -> _Vocabulary:
    by_text: dict[str, list[int]] = defaultdict(list)
    tails = []
    said: list[tuple[str, bytes] | None] = [None] * len(tongue.pieces)
    for i, piece in enumerate(tongue.pieces):
        if not piece:
            continue
        if 0x80 <= piece[0] < 0xC0:
            tails.append(i)
        text, rest = _decode(piece)
        said[i] = fold(text), rest
        by_text[fold(text)].append(i)
    heads: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = defaultdict(list)
    first, inner = [], []
    for text, ids in by_text.items():
        tokens = tuple(ids)
        for begin, end in _words(text):
            letters, breaks = letters_and_breaks(text[begin:end])
            if begin == 0:
                heads[letters].append((breaks, tokens))
                if text[0] != BREAK:
                    first.append(_Head(letters, breaks, tokens))
            else:
                inner.append(_Head(letters, breaks, tokens))
    return _Vocabulary(dict(heads), first, inner, tuple(tails), said)


def _words(text: str) -> list[tuple[int, int]]:
    """(begin, end) of every run of whole words in a token; a run from 0 has the token's leading break with it."""
    ends = [i for i in range(1, len(text) + 1) if text[i - 1] != BREAK and (i == len(text) or text[i] == BREAK)]
    begins = [0, *(i for i in range(1, len(text)) if text[i - 1] == BREAK and text[i] != BREAK)]
    return [(begin, end) for begin in begins for end in ends if end > begin]


def _decode(data: bytes) -> tuple[str, bytes]:
    """The text of bytes, and what is left of a letter that is not complete."""
    for left in range(min(3, len(data)) + 1):
        whole, rest = data[: len(data) - left], data[len(data) - left :]
        try:
            said = whole.decode()
        except UnicodeDecodeError:
            continue
        if not rest or _may_begin(rest):
            return said, rest
    return data.decode(errors="replace"), b""


def _may_begin(rest: bytes) -> bool:
    """Whether bytes are the beginning of a longer letter."""
    size = 2 if 0xC2 <= rest[0] < 0xE0 else 3 if 0xE0 <= rest[0] < 0xF0 else 4 if 0xF0 <= rest[0] < 0xF5 else 0
    return len(rest) < size and all(0x80 <= b < 0xC0 for b in rest[1:])
