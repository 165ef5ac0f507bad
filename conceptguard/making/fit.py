"""Train a classifier from scratch: the embedded ones, those that never saw what others forget, and subsets of data."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH, DECAY, SMOOTHING = 64, 5e-2, 0.1


class Recipe(NamedTuple):
    """epochs: times that every example is seen; lr: the highest one, of AdamW under one cycle."""

    epochs: int
    lr: float


def fit(
    net: nn.Module, inputs: Tensor, labels: Tensor, recipe: Recipe, seed: int,
    tick: Callable[[int, float], None] = lambda step, loss: None,
) -> nn.Module:  # fmt: skip
    """Train a net on inputs [n, ...] and labels [n], pictures a little moved in every epoch; gives it, in eval mode.

    The same seed and net give the same bits on the same machine and number of threads.
    """
    random = torch.Generator().manual_seed(seed)
    total = recipe.epochs * -(-len(labels) // BATCH)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.lr, total_steps=total)
    net.train()
    step = 0
    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(labels), generator=random).split(BATCH):
            given = moved(inputs[batch], random) if inputs.ndim == 4 else inputs[batch]
            loss = F.cross_entropy(net(given), labels[batch], label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
            tick(step, float(loss.detach()))
            step += 1
    return net.eval()


def moved(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Pictures [n, c, h, w], each turned, moved and scaled a little; a third of them grey, and brighter or darker."""
    n, channels = pictures.shape[:2]
    draw = torch.rand(n, 4, generator=random) * 2 - 1
    theta = torch.zeros(n, 2, 3)
    angle, scale = draw[:, 0] * 0.25, 1 + draw[:, 1] * 0.15
    theta[:, 0, 0] = theta[:, 1, 1] = scale * angle.cos()
    theta[:, 1, 0], theta[:, 0, 1] = scale * angle.sin(), -scale * angle.sin()
    theta[:, :, 2] = draw[:, 2:] * 0.12
    grid = F.affine_grid(theta.to(pictures), list(pictures.shape), align_corners=False)
    out = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    grey = (torch.rand(n, 1, 1, 1, generator=random) < 0.33).to(out.device)
    out = torch.where(grey, out.mean(1, keepdim=True).expand_as(out), out)
    mixed = 0.7 + 0.6 * torch.rand(n, channels, 1, 1, generator=random).to(out)
    return (1 - (1 - out) * mixed).clamp(0, 1)


def anew(net: nn.Module, seed: int) -> nn.Module:
    """A copy as before its training: what layers themselves start from; parameters of no layer, from a small normal."""
    own = copy.deepcopy(net).requires_grad_(True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for one in own.modules():
            start = getattr(one, "reset_parameters", None)
            if start is not None:
                start()
            else:
                for parameter in one.parameters(recurse=False):
                    nn.init.normal_(parameter, std=0.02)
    return own
