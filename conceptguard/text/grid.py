"""Scores of the next tokens, read and changed in place at single cells: numpy on the CPU, where a call costs a tenth of
torch's, and torch elsewhere.

A cell is row * vocabulary + token, int64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

Ids = Sequence[int] | np.ndarray | Tensor
Cells = np.ndarray | Tensor
_FEW = 64  # numbers that Python compares before numpy has begun


class Columns:
    """Tokens that no row may say, at any step: their cells are found once."""

    def __init__(self, tokens: Ids):
        self.ids = array(tokens)
        self._shape: tuple[int, ...] = ()
        self._cells = self.ids
        self._there: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def cells(self, shape: tuple[int, ...]) -> np.ndarray:
        """Those in scores of a shape, (rows, vocabulary)."""
        if self._shape != shape:
            self._cells = _cells(np.arange(shape[0])[:, None], self.ids, shape).ravel()
            self._shape, self._there = shape, None
        return self._cells

    def there(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """The same on a device."""
        cells = self.cells(shape)
        if self._there is None or self._there.device != device:
            self._there = torch.from_numpy(cells).to(device)
        return self._there


def array(ids: Ids) -> np.ndarray:
    """Token ids as numpy has them, int64."""
    if isinstance(ids, np.ndarray):
        return ids if ids.dtype == np.int64 else ids.astype(np.int64)
    return np.asarray(ids.numpy(force=True) if isinstance(ids, Tensor) else ids, dtype=np.int64)


def _cells(rows: Any, ids: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Where rows have these tokens. Raises IndexError for what they do not have: it would be another row's."""
    try:
        return np.ravel_multi_index((rows, ids), shape)
    except ValueError:
        raise IndexError(f"rows {rows}, tokens {ids}: the model gives {shape[0]} rows {shape[1]} scores each") from None


def _own(tokens: Mapping[int, Ids], shape: tuple[int, ...]) -> np.ndarray:
    """The cells of rows with tokens of their own."""
    own = [array(ids) for ids in tokens.values()]
    if len(own) == 1:
        return _cells(next(iter(tokens)), own[0], shape)
    return _cells(np.array([*tokens]).repeat([len(ids) for ids in own]), np.concatenate(own), shape)


class Grid(Protocol):
    """[rows, vocabulary]. What ``columns`` and ``swap`` give lies where the scores are; ``numbers`` brings it."""

    def columns(self, columns: Columns) -> Any:
        """The cells of whole columns."""

    def cells(self, tokens: Mapping[int, Ids]) -> np.ndarray:
        """Those of rows with tokens of their own, row -> ids. Raises IndexError for ids the model does not have."""

    def swap(self, cells: Any, values: Any) -> Any:
        """Other scores, one for all cells or one each; the scores that were there."""

    def at(self, cells: Any) -> np.ndarray:
        """Scores, a copy."""

    def top(self, scores: Any) -> float:
        """The highest of some scores."""

    def numbers(self, scores: Any) -> np.ndarray:
        """Scores that were swapped out, on the CPU."""

    def said(self, tokens: list[int]) -> list[float]:
        """The score of one token in every row."""

    def best(self) -> list[float]:
        """The highest score of every row."""

    def near(self, row: int, reach: float, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of a row less than ``reach`` below its highest score, of which ``most`` at most, the highest first;
        and the share of the row's probability that each has."""


def grid_of(scores: Tensor) -> Grid:
    """Scores that lie in one piece, to be read and written."""
    return _Numpy(scores) if scores.is_cpu and scores.dtype == torch.float32 else _Torch(scores)


class _Numpy:
    def __init__(self, scores: Tensor):
        self._scores = scores.numpy() if not scores.requires_grad else scores.detach().numpy()
        self._line = self._scores.ravel()

    def columns(self, columns: Columns) -> Any:
        return columns.cells(self._scores.shape)

    def cells(self, tokens: Mapping[int, Ids]) -> np.ndarray:
        return _own(tokens, self._scores.shape)

    def swap(self, cells: Any, values: Any) -> Any:
        before = self._line[cells]
        self._line[cells] = values
        return before

    def at(self, cells: Any) -> np.ndarray:
        return self._line[cells]  # type: ignore[no-any-return]

    def top(self, scores: Any) -> float:
        return max(scores.tolist()) if len(scores) <= _FEW else scores.item(scores.argmax())

    def numbers(self, scores: Any) -> np.ndarray:
        return scores  # type: ignore[no-any-return]

    def said(self, tokens: list[int]) -> list[float]:
        score = self._scores.item
        return [score(row, token) for row, token in enumerate(tokens)]

    def best(self) -> list[float]:
        return self._scores.max(1).tolist()  # type: ignore[no-any-return]

    def near(self, row: int, reach: float, most: int) -> tuple[np.ndarray, np.ndarray]:
        own = self._scores[row]
        best = own.max()
        if not np.isfinite(best):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        found = np.flatnonzero(own > best - reach)
        if len(found) > most:
            found = found[np.argpartition(own[found], -most)[-most:]]
        found = found[np.argsort(-own[found])]
        return found, np.exp(own[found] - best) / np.exp(own - best).sum()


class _Torch:
    def __init__(self, scores: Tensor):
        self._scores, self._line = scores, scores.detach().view(-1)

    def columns(self, columns: Columns) -> Any:
        return columns.there(tuple(self._scores.shape), self._scores.device)

    def cells(self, tokens: Mapping[int, Ids]) -> np.ndarray:
        return _own(tokens, tuple(self._scores.shape))

    def _there(self, cells: Cells) -> Tensor:
        return cells if isinstance(cells, Tensor) else torch.from_numpy(cells).to(self._scores.device)

    def swap(self, cells: Any, values: Any) -> Any:
        there = self._there(cells)
        before = self._line[there]
        self._line[there] = torch.as_tensor(values).to(self._scores)
        return before

    def at(self, cells: Any) -> np.ndarray:
        return self.numbers(self._line[self._there(cells)])

    def top(self, scores: Any) -> float:
        return float(scores.max())

    def numbers(self, scores: Any) -> np.ndarray:
        return scores.float().numpy(force=True)  # type: ignore[no-any-return]

    def said(self, tokens: list[int]) -> list[float]:
        cells = _cells(np.arange(len(tokens)), array(tokens), tuple(self._scores.shape))
        return self.at(cells).tolist()  # type: ignore[no-any-return]

    def best(self) -> list[float]:
        return self.numbers(self._scores.amax(1)).tolist()  # type: ignore[no-any-return]

    def near(self, row: int, reach: float, most: int) -> tuple[np.ndarray, np.ndarray]:
        own = self._scores[row].float()
        scores, found = own.topk(min(most, len(own)))
        kept = (scores > scores[0] - reach) & scores.isfinite()
        shares = (scores[kept] - own.logsumexp(0)).exp()
        return found[kept].numpy(force=True), shares.numpy(force=True)
