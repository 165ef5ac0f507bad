"""Scores of the next tokens, changed in place at a few columns: numpy on the CPU, where it costs a tenth of torch's
overhead a call, and torch elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Grid(Protocol):
    """[rows, vocabulary]."""

    def columns(self, tokens: Tensor) -> Any:
        """These columns, a copy: [rows, n]."""

    def best(self, columns: Any) -> list[float]:
        """The highest score of every row of columns."""

    def over(self, columns: Any, row: int, bound: float) -> list[tuple[float, int]]:
        """(score, column) of what is above a bound in one row of columns."""

    def at(self, rows: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Single scores."""

    def close(self, tokens: Tensor) -> None:
        """-inf in whole columns."""

    def put(self, rows: Sequence[int], tokens: Sequence[int], values: Sequence[float]) -> None:
        """Other single scores."""


def grid_of(scores: Tensor) -> Grid:
    """The scores, to be read and written."""
    return _Numpy(scores) if scores.device.type == "cpu" and scores.dtype == torch.float32 else _Torch(scores)


_MANY = 4096  # numbers from which torch is the faster one on the CPU, too


class _Numpy:
    def __init__(self, scores: Tensor):
        self._tensor, self._scores = scores, scores.detach().numpy()

    def columns(self, tokens: Tensor) -> Any:
        if len(tokens) * len(self._scores) > _MANY:
            return self._tensor.index_select(1, tokens).numpy()
        return self._scores.take(tokens.numpy(), axis=1)

    def best(self, columns: Any) -> list[float]:
        return np.maximum.reduce(columns, axis=1).tolist()  # type: ignore[no-any-return]

    def over(self, columns: Any, row: int, bound: float) -> list[tuple[float, int]]:
        found = np.flatnonzero(columns[row] > bound)
        return list(zip(columns[row, found].tolist(), found.tolist()))

    def at(self, rows: Sequence[int], tokens: Sequence[int]) -> list[float]:
        return self._scores[rows, tokens].tolist()  # type: ignore[no-any-return]

    def close(self, tokens: Tensor) -> None:
        if len(tokens) * len(self._scores) > _MANY:
            self._tensor.index_fill_(1, tokens, -math.inf)
        else:
            self._scores[:, tokens.numpy()] = -math.inf

    def put(self, rows: Sequence[int], tokens: Sequence[int], values: Sequence[float]) -> None:
        self._scores[rows, tokens] = values


class _Torch:
    def __init__(self, scores: Tensor):
        self._scores = scores

    def _index(self, *lists: Sequence[int]) -> tuple[Tensor, ...]:
        return tuple(torch.tensor(ids, dtype=torch.long, device=self._scores.device) for ids in lists)

    def columns(self, tokens: Tensor) -> Any:
        return self._scores.index_select(1, tokens)

    def best(self, columns: Any) -> list[float]:
        return columns.amax(1).tolist()  # type: ignore[no-any-return]

    def over(self, columns: Any, row: int, bound: float) -> list[tuple[float, int]]:
        found = (columns[row] > bound).nonzero()[:, 0]
        return list(zip(columns[row, found].tolist(), found.tolist()))

    def at(self, rows: Sequence[int], tokens: Sequence[int]) -> list[float]:
        return self._scores[self._index(rows, tokens)].tolist()  # type: ignore[no-any-return]

    def close(self, tokens: Tensor) -> None:
        self._scores.index_fill_(1, tokens, -math.inf)

    def put(self, rows: Sequence[int], tokens: Sequence[int], values: Sequence[float]) -> None:
        self._scores[self._index(rows, tokens)] = self._scores.new_tensor(values)
