"""Which row of a generation continues which: a function of the ids alone, never of row numbers.

Beam search reorders its rows, assisted generation goes back, a processor is used for another batch: what a guard knows
of a text is kept by the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

State = TypeVar("State")
Came = list[tuple[int, int]] | None
"""For every row the row of the last call that it continues, and how many tokens they share; None: each row continues
itself by one token. (-1, 0) is a row that continues none."""


class Decoded(Protocol):
    """What is followed: one call of ``generate`` about the next token of every row, see ``Decoding``."""

    ids: Any
    last: list[int]
    begin: int
    came: Came
    call: int


_ALL_PAIRS = 16  # rows up to which a row without its own past is compared with every other one's


class Lineage:
    """Follows the ids of one generation, call by call."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = (0, 0)
        self._said = b""  # column after column, so that nothing but an end is new where every row goes on

    def __call__(self, ids: np.ndarray) -> Came:
        """ids: [rows, tokens], of this call."""
        if ids.dtype != np.int64:
            ids = ids.astype(np.int64)
        before, said = self._shape, self._said
        self._shape, self._said = ids.shape, ids.T.tobytes()
        rows, length = ids.shape
        if before == (rows, length - 1) and self._said.startswith(said):
            return None
        if not said:
            return [(-1, 0)] * rows
        last = np.frombuffer(said, np.int64).reshape(before[::-1]).T
        known = {row.tobytes(): i for i, row in enumerate(np.ascontiguousarray(last))}
        grown = length == before[1] + 1
        begun = np.ascontiguousarray(ids[:, :-1]) if grown else ids
        return [
            (known[key], length - 1) if grown and (key := begun[i].tobytes()) in known else _longest(ids[i], last, i)
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
        self._begin, self._call = 0, -1
        self._states: list[list[State]] = []  # of all rows, after the prompts and after each token that followed
        self._parents: list[list[int]] = []  # the rows of the states before; [] for the same ones

    def __call__(self, decoding: Decoded) -> list[State]:
        """One state for every row, after all of its tokens."""
        came, call = decoding.came, decoding.call
        followed, self._call = call == self._call + 1, call
        if came is None and followed:
            return self._on(self._states[-1], decoding.last, len(self._states) == 1)
        ids = decoding.ids
        parents = [parent for parent, _ in came or ()]
        shared = min((shared for _, shared in came or ()), default=0) if followed else 0
        if shared < self._begin or not followed or not self._states:
            self._begin = shared = decoding.begin
            self._states, self._parents = [[self._read(row) for row in ids[:, :shared].tolist()]], [[]]
            parents = [*range(len(ids))]
        while len(self._states) > shared - self._begin + 1:
            self._states.pop()
            parents = _through(self._parents.pop(), parents)
        self._states[-1] = [self._states[-1][parent] for parent in parents]
        self._parents[-1] = _through(self._parents[-1], parents)
        for at, tokens in enumerate(ids[:, shared:].T.tolist(), shared):
            self._on(self._states[-1], tokens, at == self._begin)
        return self._states[-1]

    def put(self, row: int, state: State) -> State:
        """Have a row go on from another state than the one it came to; gives that."""
        self._states[-1][row] = state
        return state

    def _on(self, states: list[State], tokens: list[int], first: bool) -> list[State]:
        advance = self._advance
        states = [advance(state, token, first) for state, token in zip(states, tokens)]
        self._states.append(states)
        self._parents.append([])
        return states

    def _read(self, prompt: list[int]) -> State:
        state = self._start()
        for token in prompt:
            state = self._advance(state, token, False)
        return state


def _through(before: list[int], rows: list[int]) -> list[int]:
    return [before[row] for row in rows] if before else rows
