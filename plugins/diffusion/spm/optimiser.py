"""Steps of a set length along each vector's momentum.

What Muon (Jordan et al., 2024) does with a matrix, make all of its singular values equal, is of a single vector to
divide it by its length. Adam, which divides number by number, moves those that are mostly noise as far as the others.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Normalised(torch.optim.Optimizer):
    """Every row of every parameter moves by ``lr``, along Nesterov's momentum of its gradient."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.9):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Rows without a gradient stay."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state, gradient = self.state[parameter], parameter.grad
                mean = state.setdefault("momentum", torch.zeros_like(parameter))
                mean.lerp_(gradient, 1 - group["momentum"])
                way = gradient.lerp(mean, group["momentum"]).flatten(1)
                way /= way.norm(dim=1, keepdim=True).clamp(min=1e-30)
                parameter.sub_(group["lr"] * way.view_as(parameter))
