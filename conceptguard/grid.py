"""Scores of the next tokens, changed in place at a few places: numpy on the CPU, where it costs a tenth of torch's
overhead a call, and torch elsewhere.

Rows and tokens are int64 arrays of one length, or rows is one number for all of them.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

Places = np.ndarray | int


class Columns:
    """Tokens that are closed in every row, at every step: kept where the scores are, and as both kinds of array."""

    def __init__(self, tokens: Tensor):
        self.ids = tokens.numpy(force=True)
        self._there = tokens
        self._cap = np.zeros(0, np.float32)

    def there(self, device: torch.device) -> Tensor:
        """The tokens on a device."""
        if self._there.device != device:
            self._there = self._there.to(device)
        return self._there

    def cap(self, vocabulary: int) -> np.ndarray:
        """-inf at these tokens, inf at all others."""
        if len(self._cap) != vocabulary:
            self._cap = np.full(vocabulary, np.inf, np.float32)
            self._cap[self.ids] = -np.inf
        return self._cap


class Grid(Protocol):
    """[rows, vocabulary]."""

    def columns(self, tokens: Columns) -> Any:
        """These columns, a copy: [rows, n]."""

    def best(self, columns: Any = None) -> list[float]:
        """The highest score of every row of columns, or of all of them."""

    def over(self, columns: Any, row: int, bound: float) -> list[tuple[float, int]]:
        """(score, column) of what is above a bound in one row of columns."""

    def at(self, rows: Places, tokens: np.ndarray) -> Any:
        """Single scores, a copy."""

    def said(self, tokens: list[int]) -> list[float]:
        """The score of one token in every row."""

    def numbers(self, scores: Any) -> np.ndarray:
        """Scores that were copied, on the CPU."""

    def open(self, token: int) -> bool:
        """Whether every row may say a token."""

    def close(self, tokens: Columns) -> None:
        """-inf in whole columns."""

    def put(self, rows: Places, tokens: np.ndarray, values: Any) -> None:
        """Other single scores: one for all, or one each."""


def grid_of(scores: Tensor) -> Grid:
    """The scores, to be read and written."""
    return _Numpy(scores) if scores.is_cpu and scores.dtype == torch.float32 else _Torch(scores)


_DENSE = 32  # where one column in so many is closed, a pass over all of them is the faster way
_TINY = 64  # numbers that Python compares before numpy has begun


class _Numpy:
    def __init__(self, scores: Tensor):
        self._scores = scores.numpy() if not scores.requires_grad else scores.detach().numpy()

    def columns(self, tokens: Columns) -> Any:
        return self._scores.take(tokens.ids, axis=1, mode="clip")  # ids are of the vocabulary: no need to check

    def best(self, columns: Any = None) -> list[float]:
        columns = self._scores if columns is None else columns
        if columns.size <= _TINY:
            return [max(row) for row in columns.tolist()]
        return np.maximum.reduce(columns, axis=1).tolist()  # type: ignore[no-any-return]

    def over(self, columns: Any, row: int, bound: float) -> list[tuple[float, int]]:
        found = np.flatnonzero(columns[row] > bound)
        return list(zip(columns[row, found].tolist(), found.tolist()))

    def at(self, rows: Places, tokens: np.ndarray) -> Any:
        return self._scores[rows, tokens]

    def said(self, tokens: list[int]) -> list[float]:
        score = self._scores.item
        return [score(row, token) for row, token in enumerate(tokens)]

    def numbers(self, scores: Any) -> np.ndarray:
        return scores  # type: ignore[no-any-return]

    def open(self, token: int) -> bool:
        return min(self._scores[:, token].tolist()) > -math.inf  # type: ignore[no-any-return]

    def close(self, tokens: Columns) -> None:
        vocabulary = self._scores.shape[1]
        if len(tokens.ids) * _DENSE > vocabulary:
            np.minimum(self._scores, tokens.cap(vocabulary), out=self._scores)
        else:
            self._scores[:, tokens.ids] = -math.inf

    def put(self, rows: Places, tokens: np.ndarray, values: Any) -> None:
        self._scores[rows, tokens] = values


class _Torch:
    def __init__(self, scores: Tensor):
        self._scores = scores

    def _index(self, rows: Places, tokens: np.ndarray) -> tuple[Any, Tensor]:
        there = self._scores.device
        return rows if isinstance(rows, int) else torch.from_numpy(rows).to(there), torch.from_numpy(tokens).to(there)

    def columns(self, tokens: Columns) -> Any:
        return self._scores.index_select(1, tokens.there(self._scores.device))

    def best(self, columns: Any = None) -> list[float]:
        return self.numbers((self._scores if columns is None else columns).amax(1)).tolist()  # type: ignore[no-any-return]

    def over(self, columns: Any, row: int, bound: float) -> list[tuple[float, int]]:
        found = (columns[row] > bound).nonzero()[:, 0]
        return list(zip(columns[row, found].tolist(), found.tolist()))

    def at(self, rows: Places, tokens: np.ndarray) -> Any:
        return self._scores[self._index(rows, tokens)]

    def said(self, tokens: list[int]) -> list[float]:
        return self.numbers(self.at(np.arange(len(tokens)), np.array(tokens))).tolist()  # type: ignore[no-any-return]

    def numbers(self, scores: Any) -> np.ndarray:
        return scores.float().numpy(force=True)  # type: ignore[no-any-return]

    def open(self, token: int) -> bool:
        return bool((self._scores[:, token] > -math.inf).all())

    def close(self, tokens: Columns) -> None:
        self._scores.index_fill_(1, tokens.there(self._scores.device), -math.inf)

    def put(self, rows: Places, tokens: np.ndarray, values: Any) -> None:
        self._scores[self._index(rows, tokens)] = torch.as_tensor(values).to(self._scores)
