"""Sparse autoencoders on what an encoder says of crops: many directions, of which each crop is a sum of a few."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SparseAutoencoder(nn.Module):
    """z = ReLU(W (x - b) + c), of which the largest ``few`` are kept (Makhzani and Frey, 2014); x ≈ z D + b.

    Decoder rows D are of length 1; width: of rows; atoms: how many directions
    """

    def __init__(self, width: int, atoms: int, few: int, random: torch.Generator):
        super().__init__()
        start = F.normalize(torch.randn(atoms, width, generator=random), dim=1)
        self.few = few
        self.middle = nn.Parameter(torch.zeros(width))
        self.encoder, self.bias = nn.Parameter(start.clone()), nn.Parameter(torch.zeros(atoms))
        self.decoder = nn.Parameter(start)

    def amounts(self, rows: Tensor) -> Tensor:
        """[n, atoms], of all that fire: a crop that shows several things has more than ``few``, and which of them are
        the largest says nothing of whether the others are there."""
        return ((rows - self.middle) @ self.encoder.T + self.bias).relu()

    def codes(self, rows: Tensor) -> Tensor:
        """[n, atoms], at most ``few`` of each row above zero."""
        found = self.amounts(rows)
        best = found.topk(min(self.few, found.shape[1]), 1)
        return torch.zeros_like(found).scatter(1, best.indices, best.values)

    def directions(self) -> Tensor:
        """[atoms, width], of length 1."""
        return F.normalize(self.decoder, dim=1)

    @torch.no_grad()
    def revive(self, dead: Tensor, worst: Tensor) -> None:
        """Directions by their numbers [m] begin anew at rows [m, width]."""
        self.decoder[dead] = F.normalize(worst - self.middle, dim=1)
        self.encoder[dead] = self.decoder[dead]
        self.bias[dead] = 0

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Codes, and what they make of rows."""
        codes = self.codes(rows)
        return codes, codes @ self.directions() + self.middle


def train(
    rows: Tensor, atoms: int, few: int, steps: int, random: torch.Generator, tick: Callable[[int, float], None]
) -> SparseAutoencoder:
    """An autoencoder of rows of crops [n, width]."""
    model = SparseAutoencoder(rows.shape[1], atoms, few, random).to(rows.device)
    with torch.no_grad():
        model.middle.copy_(rows.mean(0))
        # Data to begin with: directions at random would find most of their way in vain.
        at = torch.randint(len(rows), (atoms,), generator=random)
        begin = F.normalize(rows[at] - model.middle + 0.02 * torch.randn(atoms, rows.shape[1], generator=random), dim=1)
        model.encoder.copy_(begin)
        model.decoder.copy_(begin)
    fit(model, rows, steps, random, tick)
    return model


def fit(
    model: SparseAutoencoder, rows: Tensor, steps: int, random: torch.Generator, tick: Callable[[int, float], None]
) -> None:
    """Mean squared error, on rows of crops [n, width]. A direction that no row of some steps has used begins anew where
    what is left is largest."""
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    used, scale = torch.zeros(len(model.encoder)), rows.sub(rows.mean(0)).square().mean()
    for step in range(steps):
        some = rows[torch.randint(len(rows), (min(512, len(rows)),), generator=random)]
        codes, again = model(some)
        left = (some - again).square()
        loss = left.mean() / scale
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        used += (codes > 0).sum(0).detach().cpu()
        if step % 50 == 49 and step < steps * 0.7:
            dead = (used == 0).nonzero()[:, 0][: len(some)]
            if len(dead):
                model.revive(dead, some[left.sum(1).topk(len(dead)).indices])
            used.zero_()
        tick(step, float(loss.detach()))
    model.eval().requires_grad_(False)
