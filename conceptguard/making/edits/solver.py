"""The closed form of UCE, solved once for all layers that read the same rows, and kept as the exact low-rank edit.

Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024, equation 7:

    W* = (λ W + s_e Σ v*_i c_iᵀ + s_p Σ W c_p c_pᵀ) M⁻¹,    M = λ I + s_e Σ c_i c_iᵀ + s_p Σ c_p c_pᵀ,    v*_i = W g_i

Since λ I + s_p Σ c_p c_pᵀ = M - s_e Σ c_i c_iᵀ, this is W* = W T with T = I + s_e (G - C)ᵀ C M⁻¹, the erased rows C and
their guides G, [rows, d]. T is the same for every layer, whatever it makes of its input, and T - I has at most as many
ranks as there are erased rows. A layer's bias stands on both sides of the equation and is no part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import ArtifactError
from .rows import Rows

TOLERANCE = 1e-6
_ROWS = 4096  # are multiplied at a time, so that memory holds any number of them


class Edit(NamedTuple):
    """T - I = shiftᵀ down: a layer that reads x reads T x. Both [r, d], fp64.

    A layer of weight W [out, d] gains W shiftᵀ (its ``up``, [out, r]) times down.
    """

    down: Tensor
    shift: Tensor

    def matrix(self) -> Tensor:
        """T, [d, d]."""
        changed = self.shift.T @ self.down
        changed.diagonal().add_(1)
        return changed

    def then(self, other: Edit) -> Edit:
        """Another edit, of the weights as this one leaves them: W T T'."""
        down = self.down + (self.down @ other.shift.T) @ other.down
        return Edit(torch.cat([down, other.down]), torch.cat([self.shift, other.shift]))


def solve(
    rows: Rows, lamb: float, erase_scale: float = 1.0, preserve_scale: float = 1.0, stays: Tensor | None = None
) -> Edit:
    """The edit that maps erased rows to their guides, keeps the preserved, and pulls towards the old weights by lamb.

    stays: ``products`` of the preserved rows, where they are known. The edit's rank is at most the number of distinct
    erased rows, and at most d; repeated rows count as often as they are given. Raises ArtifactError when M is not
    positive definite.
    """
    erased, guide, width = rows.erased.double(), rows.guide.double(), rows.erased.shape[1]
    shift = erase_scale * (guide - erased)
    if stays is None and len(erased) + len(rows.preserved) <= width:
        # C M⁻¹ from products of rows, [rows, rows]: X (λI + XᵀX)⁻¹ = (λI + XXᵀ)⁻¹ X with all rows, scaled, in X.
        every = torch.cat([erase_scale**0.5 * erased, preserve_scale**0.5 * rows.preserved.double()])
        inner = every @ every.T
        inner.diagonal().add_(lamb)
        own = torch.eye(len(every), len(erased), dtype=every.dtype, device=every.device)
        down = torch.cholesky_solve(own, _factor(inner, lamb)).T @ every / erase_scale**0.5
        return trimmed(Edit(down, shift))
    stays = products(rows.preserved, rows.preserved) if stays is None else stays
    matrix = preserve_scale * stays + erase_scale * products(erased, erased)
    matrix.diagonal().add_(lamb)
    factor = _factor(matrix, lamb)
    if len(erased) <= width:
        return trimmed(Edit(torch.cholesky_solve(erased.T, factor).T, shift))
    # More erased rows than the input has dimensions: the same edit in as many ranks as there are dimensions.
    eye = torch.eye(width, dtype=matrix.dtype, device=matrix.device)
    return trimmed(Edit(torch.cholesky_solve(products(erased, shift), factor).T, eye))


def products(a: Tensor, b: Tensor) -> Tensor:
    """Σ a_i b_iᵀ of rows [n, d], in fp64, [d, d]."""
    total = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64, device=a.device)
    for left, right in zip(a.split(_ROWS), b.split(_ROWS)):
        total += left.double().T @ right.double()
    return total


def trimmed(edit: Edit, tolerance: float = TOLERANCE) -> Edit:
    """The same edit without ranks that it does not need: its singular values below ``tolerance`` times the largest."""
    left, inner = torch.linalg.qr(edit.shift.T)
    right, outer = torch.linalg.qr(edit.down.T)
    u, values, v = torch.linalg.svd(inner @ outer.T)
    keep = values > tolerance * values[:1]
    root = values[keep].sqrt()
    return Edit((v[: len(values)][keep] * root[:, None]) @ right.T, (left @ (u[:, : len(values)][:, keep] * root)).T)


def edited(edit: Edit, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``up`` [out, r] of every layer, fp64, from its weight [out, d]."""
    return {name: weight.to(edit.shift) @ edit.shift.T for name, weight in weights.items()}


def _factor(matrix: Tensor, lamb: float) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed or not bool(factor.isfinite().all()):
        raise ArtifactError(f"the edit has no solution with lamb {lamb}: raise it (0.5 is the authors' value)")
    return factor
