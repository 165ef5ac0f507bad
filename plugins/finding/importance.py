"""Importance: how much of a decision is due to each concept, for each picture.

A decision is y = Σ m_k c_k with every mask m_k = 1, where c_k is what concept k adds to it; methods differ in how they
turn it into shares. Since it is linear, gradient times input and leaving out agree to the last bit (Fel et al., 2023);
Sobol indices are of squares, so that what speaks against a decision counts as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

DESIGNS = 32  # rows of each of Jansen's two matrices


def sobol(parts: Tensor, seed: int) -> Tensor:
    """Total Sobol indices by Jansen's estimator (1999), [n, k]: the share of a decision's variance that is gone when
    one concept's mask is known. parts: c_k of each picture, [n, k].

    S_k = Σ_j (y(A_j) - y(C_kj))² / (2 N Var y(A)), where C_k is A with column k of B; masks are a scrambled Sobol
    sequence, since the first rows of one that is not are the same in both.
    """
    k = parts.shape[1]
    drawn = torch.quasirandom.SobolEngine(2 * k, scramble=True, seed=seed).draw(DESIGNS).to(parts)
    a, b = drawn[:, :k], drawn[:, k:]
    base = a @ parts.T
    found = torch.empty_like(parts)
    for j in range(k):
        changed = a.clone()
        changed[:, j] = b[:, j]
        found[:, j] = (base - changed @ parts.T).square().mean(0) / 2
    return found / base.var(0, unbiased=False).clamp(min=1e-12)[:, None]


def left_out(parts: Tensor, seed: int) -> Tensor:
    """What the decision loses without a concept, as a share of what all that speak for it add, [n, k]."""
    return parts / parts.clamp(min=0).sum(1, keepdim=True).clamp(min=1e-12)


def gradient_input(parts: Tensor, seed: int) -> Tensor:
    """The gradient of the decision at m = 1, times m: the same as ``left_out`` for a decision that is linear."""
    masks = torch.ones_like(parts, requires_grad=True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad((masks * parts).sum(), masks)
    return slope / parts.clamp(min=0).sum(1, keepdim=True).clamp(min=1e-12)


IMPORTANCES: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "sobol": sobol, "left_out": left_out, "gradient_input": gradient_input,
}  # fmt: skip
