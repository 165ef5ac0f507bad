"""The tokens of a tokenizer as a bank of phrases reads them: by their letters, and by the words that end in them."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from conceptguard.generation.decoding import Vocabulary
from conceptguard.text.folding import BREAK, fold, separates
from conceptguard.text.letters import complete

from .bank import AHEAD, APART, BROKEN
from .text import GAP

Places = tuple[int, ...]


class Head(NamedTuple):
    """Letters at a place inside of tokens, up to an end of a word; breaks: the spaces among them; gaps: these and all
    other marks, both counted in letters."""

    letters: str
    breaks: Places
    gaps: Places
    tokens: tuple[int, ...]


class PhraseVocabulary(NamedTuple):
    """heads: letters that tokens begin with -> (breaks, gaps, tokens); first: the same where nothing stands before
    them; inner: what follows a mark or a space inside a token; longest: letters of the longest head; tails: tokens that
    begin amid a letter's bytes; said: every token folded and split at its breaks, and the bytes of a letter that it
    does not complete; None for special ones; letters: of every token; starts: the first AHEAD of them, "" where there
    are fewer, or where a sign may be read as one.
    """

    heads: dict[str, list[tuple[Places, Places, tuple[int, ...]]]]
    first: list[Head]
    inner: list[Head]
    longest: int
    tails: tuple[int, ...]
    said: list[tuple[list[str], bytes] | None]
    letters: list[str]
    starts: list[str]


class _Unit(NamedTuple):
    """A letter, or a sign that counts as one, and what stands before it: nothing, APART or BROKEN."""

    char: str
    gap: int


_known: weakref.WeakKeyDictionary[Vocabulary, dict[frozenset[str], PhraseVocabulary]] = weakref.WeakKeyDictionary()


def phrase_vocabulary(vocabulary: Vocabulary, signs: frozenset[str] = frozenset()) -> PhraseVocabulary:
    """The tokens of a tokenizer by their letters, and by the signs that some phrase has; found once for each."""
    own = _known.setdefault(vocabulary, {})
    if signs not in own:
        own[signs] = _read(vocabulary, signs)
    return own[signs]


def _read(vocabulary: Vocabulary, signs: frozenset[str]) -> PhraseVocabulary:
    by_text: dict[str, list[int]] = defaultdict(list)
    tails = []
    said: list[tuple[list[str], bytes] | None] = [None] * len(vocabulary.pieces)
    for i, piece in enumerate(vocabulary.pieces):
        if not piece:
            continue
        if 0x80 <= piece[0] < 0xC0:
            tails.append(i)
        text, rest = complete(piece)
        folded = fold(text)
        said[i] = folded.split(BREAK), rest
        by_text[folded].append(i)
    heads: dict[str, list[tuple[Places, Places, tuple[int, ...]]]] = defaultdict(list)
    first, inner = [], []
    for text, ids in by_text.items():
        tokens = tuple(ids)
        for letters, breaks, gaps, begins in dict.fromkeys(_words(text, signs)):
            if begins:
                heads[letters].append((breaks, gaps, tokens))
            head = Head(letters, breaks, gaps, tokens)
            if begins and 0 not in gaps:
                first.append(head)
            if not begins or separates(letters[0]):
                inner.append(head)
    own = ["".join(map(_letters, one[0])) if one else "" for one in said]
    starts = [
        letters[:AHEAD] if len(letters) >= AHEAD and not _may_be_read_otherwise(one, signs) else ""
        for letters, one in zip(own, said)
    ]
    longest = max(map(len, heads), default=0)
    return PhraseVocabulary(dict(heads), first, inner, longest, tuple(tails), said, own, starts)


def _letters(run: str) -> str:
    return run if run.isalnum() else "".join(c for c in run if not separates(c))


def _may_be_read_otherwise(said: tuple[list[str], bytes] | None, signs: frozenset[str]) -> bool:
    """Whether a sign in a token may belong to a phrase."""
    runs = said[0] if said else []
    return bool(signs) and (
        (GAP in signs and (len(runs) > 1 or any(map(separates, "".join(runs))))) or not signs.isdisjoint("".join(runs))
    )


def _words(folded: str, signs: frozenset[str]) -> Iterator[tuple[str, Places, Places, bool]]:
    """(letters, breaks, gaps, whether it begins where the token does) of every run of whole words in a token; a run
    from its beginning has what stands before the first letter with it."""
    letters = folded[1:] if folded[:1] == BREAK else folded
    if letters.isalnum() and GAP not in signs:  # one word, as most tokens are
        leads = letters is not folded
        yield letters, (0,) * leads, (0,) * leads, True
        if leads:
            yield letters, (), (), False
        return
    plain = list(_units(folded, frozenset()))
    ways = [plain]
    if signs:
        ways.append(list(_units(folded, signs)))
        if GAP in signs:
            ways.append([unit for own in plain for unit in ([_Unit(GAP, 0), own] if own.gap else [own])])
    for units in ways:
        marks = [unit.char == GAP or separates(unit.char) for unit in units]
        last = len(units) - 1
        ends = [i for i in range(last + 1) if units[i].char != GAP and (
            i == last or marks[i] or marks[i + 1] or units[i + 1].gap)]  # fmt: skip
        begins = [i for i in range(1, last + 1) if units[i].char != GAP and (
            units[i].gap or marks[i] or marks[i - 1])]  # fmt: skip
        for end in ends:
            yield _run(units, 0, end, True)
            if units[0].gap:
                yield _run(units, 0, end, False)
            for begin in begins:
                if begin <= end:
                    yield _run(units, begin, end, False)


def _run(units: list[_Unit], begin: int, end: int, begins: bool) -> tuple[str, Places, Places, bool]:
    own = units[begin : end + 1]
    gaps = [unit.gap if i or begins else 0 for i, unit in enumerate(own)]
    return (
        "".join(unit.char for unit in own), tuple(i for i, gap in enumerate(gaps) if gap == BROKEN),
        tuple(i for i, gap in enumerate(gaps) if gap), begins,
    )  # fmt: skip


def _units(folded: str, signs: frozenset[str]) -> Iterator[_Unit]:
    gap = 0
    for char in folded:
        if char in signs or not separates(char):
            yield _Unit(char, gap)
            gap = APART if char in signs else 0
        else:
            gap = max(gap, BROKEN if char == BREAK else APART)
