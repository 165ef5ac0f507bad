"""Extraction: rows of activations as sums of a few directions, rows ≈ amounts · directions.

Four ways that differ in what they ask of the two (Fel et al., 2023): `nmf` that neither is negative, `kmeans` that one
amount of each row is one and the others nothing, `pca` that directions are at right angles, `random` nothing at all: it
is the control. All run where the rows are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from conceptguard.making.progress import Tick

SWEEPS = 150  # at most
EVERY, FELL = 10, 3e-3  # sweeps after which the squared error must have fallen by this share, or the factors are found
MOST = 20_000  # rows that directions are learnt from; all others are encoded with them
TINY = 1e-9


@dataclass(frozen=True)
class Dictionary:
    """directions: [k, width]; encode: rows [n, width] -> amounts [n, k]"""

    directions: Tensor
    encode: Callable[[Tensor], Tensor]


def halves(rows: Tensor) -> Tensor:
    """Rows with signs as rows without, [n, 2 * width]: what is above zero beside what is below. ``whole`` undoes it."""
    return torch.cat([rows.clamp(min=0), (-rows).clamp(min=0)], 1)


def whole(rows: Tensor) -> Tensor:
    """[n, width] of halves."""
    above, below = rows.chunk(2, 1)
    return above - below


def some(rows: Tensor, random: torch.Generator) -> Tensor:
    """At most ``MOST`` rows, any of them."""
    if len(rows) <= MOST:
        return rows
    return rows[torch.randperm(len(rows), generator=random)[:MOST]]


def nmf(rows: Tensor, k: int, random: torch.Generator, tick: Tick | None = None) -> Dictionary:
    """Non-negative matrix factorisation by hierarchical alternating least squares (Cichocki and Phan, 2009), until it
    gets no better.

    rows: [n, width], not negative; k: at most as many directions as there are rows
    """
    mine = some(rows, random)
    k = min(k, len(mine))
    directions = mine[spread(mine, k, random)] + TINY
    amounts = torch.full((k, len(mine)), 1.0 / k, device=mine.device)  # the other way round, so that each is in a piece
    settled = _settling(mine)
    for sweep in range(SWEEPS):
        _descend(amounts, directions @ mine.T, directions @ directions.T)
        wanted, gram = amounts @ mine, amounts @ amounts.T
        _descend(directions, wanted, gram)
        if tick:
            tick(sweep)
        if settled(sweep, directions, wanted, gram):
            break
    if tick:
        tick(SWEEPS - 1)
    lengths = directions.norm(dim=1, keepdim=True)
    directions = directions[lengths[:, 0] > 1e-6] / lengths[lengths[:, 0] > 1e-6]
    return Dictionary(directions, lambda given: nnls(given, directions))


def nnls(rows: Tensor, directions: Tensor, sweeps: int = 60) -> Tensor:
    """Amounts [n, k], none negative, with which directions come nearest to rows."""
    wanted, gram = directions @ rows.T, directions @ directions.T
    amounts = (wanted / gram.diagonal()[:, None].clamp(min=TINY)).clamp(min=0)
    settled = _settling(rows)
    for sweep in range(sweeps):
        _descend(amounts, wanted, gram)
        if settled(sweep, amounts, wanted, gram):
            break
    return amounts.T.contiguous()


def _descend(factor: Tensor, wanted: Tensor, gram: Tensor) -> None:
    """One sweep over the rows of a factor, in place; each is the best that there is for the others as they are."""
    for j in range(len(factor)):
        step = (wanted[j] - gram[j] @ factor) / gram[j, j].clamp(min=TINY)
        factor[j].add_(step).clamp_(min=0)


def _settling(rows: Tensor) -> Callable[[int, Tensor, Tensor, Tensor], bool]:
    """Tells every ``EVERY`` sweeps whether the squared error of rows fell by less than ``FELL`` since it was asked
    before, from a factor, what the rows want of it, and the products of the other one."""
    size, before = rows.square().sum(), torch.inf

    def settled(sweep: int, factor: Tensor, wanted: Tensor, gram: Tensor) -> bool:
        nonlocal before
        if sweep % EVERY != EVERY - 1:
            return False
        error = float(size - 2 * (wanted * factor).sum() + (gram * (factor @ factor.T)).sum())
        last, before = before, error
        return last - error < FELL * last

    return settled


def spread(rows: Tensor, k: int, random: torch.Generator) -> Tensor:
    """Rows to begin with, each likelier the farther it is from those chosen before (k-means++)."""
    sizes = rows.square().sum(1)

    def far_from(one: int) -> Tensor:
        return (sizes - 2 * rows @ rows[one] + sizes[one]).clamp(min=0)

    chosen = [int(torch.randint(len(rows), (), generator=random))]
    far = far_from(chosen[0])
    for _ in range(k - 1):
        chance = far.clamp(min=TINY).cpu()
        chosen.append(int(torch.multinomial(chance, 1, generator=random)))
        far = torch.minimum(far, far_from(chosen[-1]))
    return torch.tensor(chosen)


def kmeans(rows: Tensor, k: int, random: torch.Generator, rounds: int = 30) -> Dictionary:
    """Clusters on the sphere: a row's amount of the nearest direction is their product, of all others nothing."""
    mine = F.normalize(some(rows, random), dim=1)
    centres = mine[spread(mine, min(k, len(mine)), random)]
    for _ in range(rounds):
        own = (mine @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, own, mine)
        centres = torch.where(sums.norm(dim=1, keepdim=True) > TINY, F.normalize(sums, dim=1), centres)

    def encode(given: Tensor) -> Tensor:
        found = given @ centres.T
        nearest = found.argmax(1, keepdim=True)
        return torch.zeros_like(found).scatter_(1, nearest, found.gather(1, nearest).clamp(min=0))

    return Dictionary(centres, encode)


def pca(rows: Tensor, k: int, random: torch.Generator) -> Dictionary:
    """Principal axes, each in both directions: what is on one side of the mean is another concept than what is on the
    other."""
    mine = some(rows, random)
    axes = torch.linalg.svd(mine - mine.mean(0), full_matrices=False).Vh[: (k + 1) // 2]
    return _both_sides(torch.cat([axes, -axes])[:k])


def random_directions(rows: Tensor, k: int, random: torch.Generator) -> Dictionary:
    """The control: any directions, as wide in each as the rows are."""
    spread = (rows - rows.mean(0)).std(0)
    return _both_sides(F.normalize(torch.randn(k, rows.shape[1], generator=random) * spread, dim=1))


def _both_sides(directions: Tensor) -> Dictionary:
    return Dictionary(directions, lambda given: (given @ directions.T).clamp(min=0))


EXTRACTIONS: Mapping[str, Callable[..., Dictionary]] = {
    "nmf": nmf, "kmeans": kmeans, "pca": pca, "random": random_directions,
}  # fmt: skip
