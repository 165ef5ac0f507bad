"""Words that had better not be begun: those that the model would go on with to a phrase.

A word of several tokens is closed at its last one, and half of it would stand there. Where that cannot be taken back,
the model is asked before a word begins, or goes on: would its own likeliest tokens end a phrase, or more than half of
what it would say next, the token is refused.

Where the likeliest token is refused or closed, all that may come in its place is looked at as far as the end of its
word, and the row goes on with one of these. None is glued to the word before, or is the rest of a phrase behind another
beginning, as models say it that know a text by heart; and where there are words of one token, it is one of those, for
what a tokenizer has as a token is a word. Where text can be taken back this is all that is done, also in place of a
word that was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from conceptguard.generation.decoding import Ahead, Decoding
from conceptguard.receipt import Acting

from .tokens import PhraseTokens, State

LIKELY = 0.01  # from which share of a row's probability a token is looked at; the likeliest always is
LONGEST = 16  # tokens of a word
ROUNDS = 12  # of refusing tokens, and looking at those that come instead
LETTERS = 3  # of a token that is taken for a word


@dataclass
class _Row:
    """What a row may say here. meant: its likeliest token, were there no guard; instead: whether that is closed, so
    that another one comes; seen: tokens that were looked at; good: those that may be said; whole: of these, words."""

    state: State
    meant: int
    instead: bool
    seen: set[int] = field(default_factory=set)
    good: list[int] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)


@dataclass
class _Word:
    """A word that a row would say: its tokens so far, and the state of the bank after them; bad: to be refused."""

    row: _Row
    at: int
    path: list[int]
    state: State
    bad: bool = False


def avoid(by: Acting, decoding: Decoding, tokens: PhraseTokens, states: Sequence[State], meant: Sequence[int]) -> bool:
    """Close what begins a word that would end as a phrase. False where the model cannot be asked about it.

    meant: the likeliest token of every row before anything was closed; of one that was taken back, that one
    """
    ahead = decoding.ahead
    if ahead is None:
        return False
    left = decoding.scores[range(len(meant)), meant].tolist()
    rows = {}
    for at, state in enumerate(states):
        shut = left[at] == -math.inf
        if not decoding.live(at) or at in decoding.regrets:
            continue
        if shut or not decoding.revocable:
            rows[at] = _Row(state, meant[at], shut)
    turn = [*rows]
    for _ in range(ROUNDS):
        words = [word for at in turn for word in _likely(decoding, tokens, at, rows[at])]
        if not words:
            break
        if not _look(ahead, tokens, words):
            return False
        closed: dict[int, list[int]] = {}
        for word in words:
            first, row = word.path[0], word.row
            if word.bad:
                closed.setdefault(word.at, []).append(first)
                row.instead |= first == row.meant
            else:
                row.good.append(first)
                if len(word.path) == 1 and len(tokens.text(word.path)) >= LETTERS:
                    row.whole.append(first)
        decoding.forbid(by, closed)
        turn = [*closed]
    for at, row in rows.items():
        if row.instead and row.good:
            decoding.keep(torch.tensor(row.whole or row.good, device=decoding.scores.device), at)
    return True


def _likely(decoding: Decoding, tokens: PhraseTokens, at: int, row: _Row) -> list[_Word]:
    """What a row would likely say and is worth looking at: what begins a phrase; instead of a closed token, all."""
    found = []
    likely, shares = decoding.near(at, -math.log(LIKELY))
    for i, token in enumerate(likely.tolist()):
        if token in row.seen or (i and shares[i] < LIKELY):
            continue
        state = tokens.advance(row.state, token, not decoding.last)
        if row.instead or (state.begun and not state.gap) or tokens.blank(token):
            row.seen.add(token)
            glued = row.instead and not row.state.gap and tokens.leads(row.meant) and tokens.glues(token)
            found.append(_Word(row, at, [token], state, glued))
    return found


def _look(ahead: Ahead, tokens: PhraseTokens, words: Sequence[_Word]) -> bool:
    """Follow words to their ends, and mark those that had better not be begun. False where nobody can ask."""
    going = [word for word in words if not word.bad]
    for _ in range(LONGEST):
        if not going:
            break
        scores = ahead([word.at for word in going], [word.path for word in going])
        if scores is None:
            return False
        further = []
        for word, own, token in zip(going, scores, scores.argmax(1).tolist()):
            if _ends(tokens, tokens.closing(word.state), own, token):
                word.bad = True
            elif tokens.glues(token) or tokens.blank(word.path[-1]):
                word.path.append(token)
                word.state = tokens.advance(word.state, token, False)
                further.append(word)
            elif word.row.instead:
                word.bad = tokens.bank.mangled(tokens.text(word.path))
        going = further
    return True


def _ends(tokens: PhraseTokens, closing: np.ndarray, scores: Tensor, likeliest: int) -> bool:
    """Whether a word would be ended as a phrase: by the likeliest token, or by more than half of all likelihood."""
    if not len(closing):
        return False
    if likeliest in closing:
        return tokens.glues(likeliest)
    shares = scores.float().softmax(0).numpy(force=True)[closing]
    return sum(float(shares[i]) for i in np.flatnonzero(shares > LIKELY) if tokens.glues(int(closing[i]))) > 0.5
