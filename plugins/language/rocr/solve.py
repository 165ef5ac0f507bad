"""The closed form: one layer's weight gains as many ranks as there are keys, and none along what it must keep.

With keys K [n, in] and what is to be added at each of them, R [n, out], and P onto the null space of what is to stay,

    Δᵀ = (P KᵀK + λ I)⁻¹ P Kᵀ R = P Kᵀ (K P Kᵀ + λ I)⁻¹ R,

the authors' solve(P (k kᵀ + C) + L2 I, P k rᵀ) for all keys at once (their C holds keys of earlier edits), pushed
through so that the system is of the keys' number and the factors are the low-rank terms themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from conceptguard.runtime.lowrank import Factors

TOLERANCE = 1e-6


def null_space(second_moment: Tensor, share: float) -> Tensor:
    """Directions in which keys hardly vary: as many of the least as hold ``share`` of all, [in, m], fp64.

    second_moment: E[k kᵀ] of what is to stay, [in, in]. A share of the trace, where the authors cut singular values
    below 2e-2, which means something for the covariance of one model alone.
    """
    values, vectors = torch.linalg.eigh(second_moment.double())
    total = values.clamp(min=0).cumsum(0)
    return vectors[:, total <= share * total[-1]] if share < 1 else vectors


def redirect(keys: Tensor, wanted: Tensor, space: Tensor, ridge: float) -> Factors:
    """Terms that add ``wanted`` [n, out] where a layer reads ``keys`` [n, in], nothing outside of ``space`` [in, m].

    ridge: λ, as a share of the mean squared length of the projected keys. Ranks that hold nothing are left out.
    """
    own = keys.double() @ space @ space.T
    inner = own @ own.T
    inner.diagonal().add_(ridge * float(inner.diagonal().mean()) + 1e-12)
    up = torch.linalg.solve(inner, wanted.double()).T
    left, values, right = torch.linalg.svd(up @ own, full_matrices=False)
    kept = values > TOLERANCE * values[:1]
    root = values[kept].sqrt()
    return Factors((root[:, None] * right[kept]).float(), (left[:, kept] * root).float())
