"""The tokens of a tokenizer as a bank of phrases reads them: by their letters, and by the words that end in them."""

from __future__ import annotations

import weakref
from collections import defaultdict
from typing import NamedTuple

from conceptguard.generation.decoding import Vocabulary

from .bank import AHEAD
from .text import BREAK, fold, letters_and_breaks


class Head(NamedTuple):
    """Letters at a place inside of tokens, up to an end of a word, with the breaks among them."""

    letters: str
    breaks: tuple[int, ...]
    tokens: tuple[int, ...]


class PhraseVocabulary(NamedTuple):
    """heads: letters that tokens begin with -> (breaks, tokens); first: the same where no break stands before them;
    inner: what follows a break inside a token; longest: letters of the longest head; tails: tokens that begin amid a
    letter's bytes; said: every token folded and split at its breaks, and the bytes of a letter that it does not
    complete; None for special ones; letters: of every token; starts: the first AHEAD of them, "" where there are fewer.
    """

    heads: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]]
    first: list[Head]
    inner: list[Head]
    longest: int
    tails: tuple[int, ...]
    said: list[tuple[list[str], bytes] | None]
    letters: list[str]
    starts: list[str]


_known: weakref.WeakKeyDictionary[Vocabulary, PhraseVocabulary] = weakref.WeakKeyDictionary()


def phrase_vocabulary(vocabulary: Vocabulary) -> PhraseVocabulary:
    """The tokens of a tokenizer by their letters; found once for each tokenizer."""
    if vocabulary not in _known:
        _known[vocabulary] = _read(vocabulary)
    return _known[vocabulary]


def _read(vocabulary: Vocabulary) -> PhraseVocabulary:
    by_text: dict[str, list[int]] = defaultdict(list)
    tails = []
    said: list[tuple[list[str], bytes] | None] = [None] * len(vocabulary.pieces)
    for i, piece in enumerate(vocabulary.pieces):
        if not piece:
            continue
        if 0x80 <= piece[0] < 0xC0:
            tails.append(i)
        text, rest = decode(piece)
        folded = fold(text)
        said[i] = folded.split(BREAK), rest
        by_text[folded].append(i)
    heads: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = defaultdict(list)
    first, inner = [], []
    for text, ids in by_text.items():
        tokens = tuple(ids)
        for begin, end in _words(text):
            letters, breaks = letters_and_breaks(text[begin:end])
            if begin == 0:
                heads[letters].append((breaks, tokens))
                if text[0] != BREAK:
                    first.append(Head(letters, breaks, tokens))
            else:
                inner.append(Head(letters, breaks, tokens))
    own = ["".join(one[0]) if one else "" for one in said]
    starts = [letters[:AHEAD] if len(letters) >= AHEAD else "" for letters in own]
    longest = max(map(len, heads), default=0)
    return PhraseVocabulary(dict(heads), first, inner, longest, tuple(tails), said, own, starts)


def _words(text: str) -> list[tuple[int, int]]:
    """(begin, end) of every run of whole words in a token; a run from 0 has the token's leading break with it."""
    ends = [i for i in range(1, len(text) + 1) if text[i - 1] != BREAK and (i == len(text) or text[i] == BREAK)]
    begins = [0, *(i for i in range(1, len(text)) if text[i - 1] == BREAK and text[i] != BREAK)]
    return [(begin, end) for begin in begins for end in ends if end > begin]


def decode(data: bytes) -> tuple[str, bytes]:
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
