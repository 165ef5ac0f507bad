"""Edits that turn a layer's outputs: what it says of a concept is rotated to what it says of a guide.

Sun et al., "Orthogonal Concept Erasure", ICML 2026: W* = R W with the orthogonal R that comes nearest to
M = Σ W g (W c)ᵀ + λI of erased rows c and their guides g. Here R leaves outputs of rows that must stay where they are,
exactly: it acts in what these have no part in. Norms of outputs do not change, and R - I is of low rank where M without
λI is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...runtime.lowrank import Factors
from .free import directions
from .rows import Rows
from .solver import products

TOLERANCE = 1e-2  # singular values of R - I, which are at most 2, below this one are left out


def rotate(weight: Tensor, rows: Rows, held: Tensor, cutoff: float, lamb: float) -> tuple[Factors, int]:
    """One layer's edit, and how many directions of its outputs were free.

    weight: [out, d]; held: rows that must stay [n, d]; cutoff: see ``directions``
    lamb: pull towards no rotation, as a share of the mean of what erased rows have in a free direction
    """
    whole = weight.double()
    free = directions(held.double() @ whole.T, cutoff)[1]
    if not free.shape[1]:
        return Factors(whole.new_zeros(0, whole.shape[1]), whole.new_zeros(len(whole), 0)), 0
    own, guide = (part.double() @ whole.T @ free for part in (rows.erased, rows.guide))
    towards = products(guide, own)
    towards.diagonal().add_(lamb * float(own.square().sum()) / free.shape[1])
    u, _, v = torch.linalg.svd(towards)
    turned = u @ v
    turned.diagonal().sub_(1)
    u, values, v = torch.linalg.svd(turned)
    keep = values > TOLERANCE
    return Factors(v[keep] @ free.T @ whole, free @ (u[:, keep] * values[keep])), free.shape[1]
