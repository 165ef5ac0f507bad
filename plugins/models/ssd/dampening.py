"""The formula of SSD: which weights are dampened, and by how much. The same for every kind of model.

θ_i ← min(λ F_D,i / F_f,i, 1) θ_i    where    F_f,i > α F_D,i
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def factors(
    every: Mapping[str, Tensor], own: Mapping[str, Tensor], alpha: float, lam: float, shuffled: bool = False
) -> dict[str, Tensor]:
    """What each weight is multiplied by, 1 for most. every, own: F_D and F_f by the names of tensors

    shuffled: the same factors, of each tensor, on weights that are drawn at random, which is the control
    """
    found = {}
    random = torch.Generator().manual_seed(0)
    for name, general in every.items():
        chosen = own[name] > alpha * general
        factor = (lam * general / own[name].clamp_min(1e-38)).clamp_max(1)
        factor = torch.where(chosen, factor, torch.ones_like(factor))
        if shuffled:
            factor = factor.flatten()[torch.randperm(factor.numel(), generator=random)].view_as(factor)
        found[name] = factor
    return found


def counted(found: Mapping[str, Tensor]) -> dict[str, int]:
    """For the manifest: how many weights are dampened, of how many."""
    return {"dampened": sum(int((one < 1).sum()) for one in found.values()),
            "of": sum(one.numel() for one in found.values())}  # fmt: skip
