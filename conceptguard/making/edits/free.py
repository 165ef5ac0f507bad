"""Edits in what is left free by what must stay: directions in which no row to keep has a part.

Li et al., "SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion Models", ICLR 2026. With V [d, free]
an orthonormal basis of these directions and D = (G - C)ᵀ of erased rows C and their guides G, [rows, d],

    T - I = D C V (Vᵀ(CᵀC + p Σ k kᵀ)V + λI)⁻¹ Vᵀ

maps every row outside of V to itself, exactly, whatever the layer. The paper has a second projection that holds the
rows of a prompt without words; counting these among what must stay is the same edit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import ArtifactError
from .rows import Rows
from .solver import Edit, products, trimmed

_ROWS = 4096


def directions(held: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Orthonormal bases of what rows to hold [n, d] have a part in, [d, taken], and of what is free, [d, free].

    cutoff: directions that hold less than this share of what the strongest one holds count as free
    """
    triangle = held.new_zeros(0, held.shape[1], dtype=torch.float64)
    for part in held.split(_ROWS):
        triangle = torch.linalg.qr(torch.cat([triangle, part.double()]), mode="r").R
    _, values, vectors = torch.linalg.svd(triangle, full_matrices=True)
    taken = int((values.square() > cutoff * values[:1].square()).sum())
    return vectors[:taken].T, vectors[taken:].T


def how_many_fit(held: Tensor, cutoff: float, free: int) -> int:
    """How many of the rows to hold, from the first on, leave at least so many directions free."""
    fits, fails = 0, len(held) + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if directions(held[:middle], cutoff)[1].shape[1] >= free:
            fits = middle
        else:
            fails = middle
    return fits


def solve_free(rows: Rows, free: Tensor, lamb: float, preserve_scale: float = 0.0) -> Edit:
    """The edit within ``free`` [d, free], which may move preserved rows there, the less the larger preserve_scale.

    lamb: pull towards the old weights, absolute. Its rank is at most the number of erased rows. Raises ArtifactError
    when there is no solution.
    """
    erased = rows.erased.double()
    own, stays = erased @ free, rows.preserved.double() @ free
    matrix = own.T @ own + preserve_scale * stays.T @ stays
    matrix.diagonal().add_(lamb)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed or not bool(factor.isfinite().all()):
        raise ArtifactError(f"the edit has no solution with a pull of {lamb:.3g} towards the old weights: raise it")
    shift = rows.guide.double() - erased
    if len(own) <= free.shape[1]:
        return trimmed(Edit(torch.cholesky_solve(own.T, factor).T @ free.T, shift))
    return trimmed(Edit(torch.cholesky_solve(free.T, factor), products(own, shift)))
