"""A small classifier that says whether one concept is in a picture, and how it learns from drawn pictures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProbeNet(nn.Module):
    """Pictures [n, 3, h, w] in [0, 1], of any size -> one logit each, [n]."""

    def __init__(self, size: int = 64, width: int = 16):
        super().__init__()
        self.size = size
        wide = [3, width, 2 * width, 4 * width, 4 * width]
        blocks = [(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(4, b), nn.SiLU()) for a, b in pairwise(wide)]
        self.features = nn.Sequential(*(layer for block in blocks for layer in block))
        # Where in the picture something is does not matter; how much of it there is, and how strong at its best, does.
        self.head = nn.Linear(2 * wide[-1], 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of the concept."""
        if pictures.shape[-2:] != (self.size, self.size):
            pictures = F.interpolate(pictures, (self.size, self.size), mode="bilinear", antialias=True)
        found = self.features(pictures * 2 - 1)
        return self.head(torch.cat([found.mean((2, 3)), found.amax((2, 3))], 1))[:, 0]  # type: ignore[no-any-return]


def train(
    net: ProbeNet,
    own: Tensor,
    kept: Tensor,
    steps: int,
    lr: float,
    random: torch.Generator,
    report: Callable[[int, float], None],
) -> None:
    """Logistic loss on batches of half the concept, half of what is kept. own, kept: [n, 3, size, size] in [0, 1]."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
    wanted = torch.tensor([1.0] * 32 + [0.0] * 32, device=own.device)
    for step in range(steps):
        some = [data[torch.randint(len(data), (32,), generator=random)] for data in (own, kept)]
        loss = F.binary_cross_entropy_with_logits(net(_varied(torch.cat(some), random)), wanted)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        report(step, float(loss.detach()))


def rimmed(pictures: Tensor, among: Tensor, random: torch.Generator) -> Tensor:
    """Pictures [n, 3, h, w] with the middle, half as wide and as high, of others by chance: what is left of a picture
    whose rim a model was shown, to complete it."""
    h, w = pictures.shape[-2:]
    middle = (..., slice(h // 4, h - h // 4), slice(w // 4, w - w // 4))
    found = pictures.clone()
    found[middle] = among[torch.randint(len(among), (len(pictures),), generator=random)][middle]
    return found


def _varied(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Mirrored, moved, scaled, brighter or darker, and with noise: the concept is not one picture of it."""
    n = len(pictures)

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=random) * (high - low) + low

    scale, flip = draw(0.75, 1.25), torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    place = torch.zeros(n, 2, 3)
    place[:, 0, 0], place[:, 1, 1] = scale * flip, scale
    place[:, :, 2] = torch.stack([draw(-0.15, 0.15), draw(-0.15, 0.15)], 1)
    grid = F.affine_grid(place.to(pictures), list(pictures.shape), align_corners=False)
    moved = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    light = draw(0.8, 1.2)[:, None, None, None].to(pictures)
    noise = torch.randn(pictures.shape, generator=random).to(pictures) * 0.03
    return (moved * light + noise).clamp(0, 1)
