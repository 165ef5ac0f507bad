"""The rows of many concepts for one solve, read concept by concept and kept, so that none is read twice.

What a solver asks of rows are sums over them, Σ c cᵀ and Σ c gᵀ, [d, d]. Any rows with the same sums are as good, and d
of them are always enough: what a thousand concepts take is a square as wide as an encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...runtime.once import meanwhile
from .rows import Kind, Rows, Wording, check_texts, wordings
from .solver import products

if TYPE_CHECKING:
    from ..task import Task

KINDS: tuple[Kind, ...] = ("states", "pooled")
TOLERANCE = 1e-6  # of the longest direction, relatively: shorter ones are the rounding of fp32
# Wordings to erase and texts to keep -> rows; with either of them alone, the rows of these.
Read = Callable[[Sequence[Wording], Sequence[str]], Mapping[Kind, Rows]]


def rows_of_each(task: Task, templates: Sequence[str], kept: Sequence[str], read: Read) -> dict[Kind, Rows]:
    """Rows of a task's concept, or of several concepts, each in every template, and of texts to keep.

    Of several each is read by itself, so that its rows do not depend on the others'; see ``Task.pieces``. Raises
    PolicyError for texts that cannot be erased or kept.
    """
    if not task.several:
        return dict(read(wordings(task.concept, templates), kept))
    for encoder in task.host.encoders():
        check_texts(encoder, [w for one in task.several for w in wordings(one, templates)], kept)
    held = task.pieces.get({"kept": list(kept)}, partial(_stays, read, kept))
    found = {kind: Paired() for kind in KINDS if kind in held}
    with meanwhile(), task.bar(len(task.several), ", reading") as tick:
        for i, one in enumerate(task.several):
            own = partial(_own, read, wordings(one, templates))
            piece = task.pieces.get({"concept": one.model_dump()}, own)
            for kind, pairs in found.items():
                pairs.add(piece[f"{kind}.erased"], piece[f"{kind}.guide"])
            tick(i)
    return {kind: Rows(*pairs.rows(), held[kind]) for kind, pairs in found.items()}


def _stays(read: Read, kept: Sequence[str]) -> dict[str, Tensor]:
    return {kind: Paired().add(rows.preserved, rows.preserved).rows()[0] for kind, rows in read([], kept).items()}


def _own(read: Read, words: Sequence[Wording]) -> dict[str, Tensor]:
    found = {}
    for kind, (erased, guide, _) in read(words, []).items():
        found[f"{kind}.erased"], found[f"{kind}.guide"] = Paired().add(erased, guide).rows()
    return found


class Paired:
    """Rows and their guides, [n, d] each: as they came, or where they are more than d, at most d with the same sums."""

    def __init__(self) -> None:
        self._held: list[tuple[Tensor, Tensor]] = []
        self._sums: tuple[Tensor, Tensor] | None = None

    def add(self, erased: Tensor, guide: Tensor) -> Paired:
        """Some more; gives itself."""
        self._held.append((erased, guide))
        width = erased.shape[1]
        if self._sums is not None or sum(len(rows) for rows, _ in self._held) > width:
            # Always from the first to the last, so that the last bit tells nothing of when they became too many.
            zeros = torch.zeros(width, width, dtype=torch.float64, device=erased.device)
            own, theirs = self._sums or (zeros, zeros)
            for rows, guides in self._held:
                own, theirs = own + products(rows, rows), theirs + products(rows, guides)
            self._sums, self._held = (own, theirs), []
        return self

    def rows(self) -> tuple[Tensor, Tensor]:
        """Both, fp32."""
        if self._sums is None:
            erased, guide = zip(*self._held)
            return torch.cat(erased).float(), torch.cat(guide).float()
        own, theirs = self._sums
        values, vectors = torch.linalg.eigh(own)
        seen = values > TOLERANCE**2 * values.max()
        lengths, ways = values[seen].sqrt()[:, None], vectors[:, seen].T
        return (lengths * ways).float(), (ways @ theirs / lengths).float()
