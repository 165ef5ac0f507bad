"""UCE's closed form for all cross-attention layers at once, kept as the exact low-rank edit that it is.

Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024, equation 7:

    W* = (λ W + s_e Σ v*_i c_iᵀ + s_p Σ W c_p c_pᵀ) M⁻¹,    M = λ I + s_e Σ c_i c_iᵀ + s_p Σ c_p c_pᵀ,    v*_i = W g_i

Since λ I + s_p Σ c_p c_pᵀ = M - s_e Σ c_i c_iᵀ, the edit is W* - W = s_e W (G - C)ᵀ · C M⁻¹ with the erased rows C and
their guides G, [rows, d]. It has as many ranks as erased rows, and its input factor C M⁻¹ is the same for every layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from conceptguard.errors import ArtifactError


class Rows(NamedTuple):
    """Encodings as the layers receive them: erased and guide [rows, d] in pairs, preserved [kept rows, d]."""

    erased: Tensor
    guide: Tensor
    preserved: Tensor


def solve(
    weights: Mapping[str, Tensor], rows: Rows, lamb: float, erase_scale: float = 1.0, preserve_scale: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """The edit of every layer: down [r, d], shared, and up [out, r] by layer name, in fp64 on the CPU.

    r is at most the number of erased rows, and at most d. Raises ArtifactError when M is not positive definite.
    """
    erased, shift = _without_repeats(rows.erased.double().cpu(), rows.guide.double().cpu())
    kept = rows.preserved.double().cpu()
    width = erased.shape[1]
    matrix = lamb * torch.eye(width, dtype=torch.float64) + preserve_scale * kept.T @ kept
    # Repeated rows count as often as they were given.
    all_erased = rows.erased.double().cpu()
    matrix += erase_scale * all_erased.T @ all_erased
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed or not bool(factor.isfinite().all()):
        raise ArtifactError(f"the edit has no solution with lamb {lamb}: raise it (0.5 is the authors' value)")
    down = torch.cholesky_solve(erased.T, factor).T
    through = erase_scale * shift.T
    if len(down) > width:
        # More erased rows than the input has dimensions: the same edit in as many ranks as there are dimensions.
        through, down = through @ down, torch.eye(width, dtype=torch.float64)
    return down, {name: weight.double().cpu() @ through for name, weight in weights.items()}


def _without_repeats(erased: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct erased rows [r, d], and for each the sum of its (guide - erased) [r, d]."""
    found, index = torch.unique(erased, dim=0, return_inverse=True)
    return found, torch.zeros_like(found).index_add_(0, index, guide - erased)
