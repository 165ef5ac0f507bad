"""Which row of a generation continues which: a function of the ids alone, never of row numbers.

Beam search reorders its rows, assisted generation goes back, a processor is used for another batch: what a guard knows
of a text is kept by the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from .decoding import Decoding

State = TypeVar("State")
Came = list[tuple[int, int]] | None
"""For every row the row of the last call that it continues, and how many tokens they share; None: each row continues
itself by one token. (-1, 0) is a row that continues none."""

_ALL_PAIRS = 16  # rows up to which a row without its own past is compared with every other one's


class Lineage:
    """Follows the ids of one generation, call by call."""

    def __init__(self) -> None:
        self._last = np.zeros((0, 0), dtype=np.int64)

    def __call__(self, ids: np.ndarray) -> Came:
        """ids: [rows, tokens], of this call."""
        last, self._last = self._last, ids
        rows, length = ids.shape
        if last.shape == (rows, length - 1) and (ids[:, :-1] == last).all():
            return None
        if not last.size:
            return [(-1, 0)] * rows
        known = {row.tobytes(): i for i, row in enumerate(np.ascontiguousarray(last))}
        grown = length == last.shape[1] + 1
        before = np.ascontiguousarray(ids[:, :-1]) if grown else ids
        return [
            (known[key], length - 1) if grown and (key := before[i].tobytes()) in known else _longest(ids[i], last, i)
            for i in range(rows)
        ]


def _longest(row: np.ndarray, last: np.ndarray, own: int) -> tuple[int, int]:
    """The row of ``last`` that shares most with ``row``, and how much."""
    rows = range(len(last)) if len(last) <= _ALL_PAIRS else [own] if own < len(last) else []
    best = (-1, 0)
    width = min(len(row), last.shape[1])
    for i in rows:
        different = np.flatnonzero(row[:width] != last[i, :width])
        shared = int(different[0]) if len(different) else width
        best = max(best, (i, shared), key=lambda pair: pair[1])
    return best if best[1] else (-1, 0)


class Follow(Generic[State]):
    """What a guard knows of every row, brought up to date by one step a token.

    start: the state before any token; advance: (state, token, first) -> the next state, where first is whether the
    token is the first of the row's own text, after its prompt. States must not be changed once made: rows share them.
    """

    def __init__(self, start: Callable[[], State], advance: Callable[[State, int, bool], State]):
        self._start, self._advance = start, advance
        self._trails: list[list[State]] = []
        self._call = -1

    def __call__(self, decoding: Decoding) -> list[State]:
        """One state for every row, after all of its tokens."""
        ids, advance, begin = decoding.ids, self._advance, decoding.begin
        followed, self._call = decoding.call == self._call + 1, decoding.call
        if decoding.came is None and followed:
            first = ids.shape[1] == begin + 1
            for trail, token in zip(self._trails, decoding.last):
                trail.append(advance(trail[-1], token, first))
            return [trail[-1] for trail in self._trails]
        came = decoding.came if followed and decoding.came is not None else [(-1, 0)] * len(ids)
        self._trails = [
            self._trails[parent][: shared + 1] if 0 <= parent < len(self._trails) else [self._start()]
            for parent, shared in came
        ]
        for trail, row in zip(self._trails, ids.tolist()):
            for at in range(len(trail) - 1, len(row)):
                trail.append(advance(trail[-1], row[at], at == begin))
        return [trail[-1] for trail in self._trails]
