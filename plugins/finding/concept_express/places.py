"""Which parts of a picture belong together, by what the places of a denoiser look at while it is told nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptguard.errors import PolicyError

if TYPE_CHECKING:
    from conceptguard.generation.conditioning import Encoded
    from conceptguard.protocols import Denoiser

LEVELS = (0.05, 0.15, 0.25, 0.35, 0.5)  # shares of the schedule
VIEWS = 2  # noises at each
TINY = 1e-9
LEAST = 1 / 32  # of the places: less than that is a corner of something


def attention(denoiser: Denoiser, clean: Tensor, nothing: Encoded, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """(what places look at, [places, places], rows that add up to one; how far each is told, [places], 1 on average).

    clean: latents of one picture, [1, channels, h, w]; nothing: the empty prompt. How far a place is told is its
    attention to what follows the begin token, which of the empty prompt is end tokens alone: ground looks at the begin
    token. It is weighed by how far the place looks at itself, since ground looks everywhere. Raises PolicyError for
    attention that is not finite.
    """
    from conceptguard.making.noising import noised

    between, told = [], []
    for level in LEVELS:
        timestep = torch.tensor([denoiser.timestep(level)])
        for _ in range(VIEWS):
            noise = torch.randn(clean.shape, generator=random)
            latents, _wanted = noised(denoiser, clean, noise, timestep)
            seen = denoiser.looks(latents, timestep, nothing)
            between.append(seen.between[0].cpu())
            told.append(1 - seen.at_text[0, :, 0].cpu())
    rows = torch.stack(between).mean(0)
    if not bool(rows.isfinite().all()) or not bool(torch.stack(told).isfinite().all()):
        raise PolicyError("the model's attention to this picture is not finite: load it in fp32")
    text, own = torch.stack(told).mean(0), rows.diagonal()
    return rows, (text / text.mean()) * (own / own.mean())


def finch(rows: Tensor) -> Tensor:
    """Clusters of distributions [n, k], [n] numbers from 0: whoever is the other's nearest by the Kullback-Leibler
    divergence, both ways, or has the same nearest, is of one cluster with it (Sarfraz et al., 2019, first level)."""
    n, logs = len(rows), (rows + TINY).log()
    apart = (rows * logs).sum(1)[:, None] - rows @ logs.T
    apart = apart + apart.T
    apart.fill_diagonal_(float("inf"))
    linked = torch.eye(n, dtype=torch.bool)
    linked[torch.arange(n), apart.argmin(1)] = True
    linked = linked | linked.T | ((linked.float() @ linked.float().T) > 0)
    return _connected(linked)


def regions(rows: Tensor, told: Tensor, side: int) -> list[Tensor]:
    """Masks [side, side] of bool, the most told first: clusters that are told more than the mean of all clusters, those
    that lie beside each other as one. The paper merges by a second level of clusters; beside each other is what that
    comes to on maps as small as 8 x 8. None where nothing stands out, and for a picture that is told everywhere."""
    labels = finch(rows)
    each = torch.stack([told[labels == one].mean() for one in range(int(labels.max()) + 1)])
    shown = (each > each.mean())[labels]
    at = torch.arange(side * side)
    steps = (at[:, None] // side - at[None] // side).abs() + (at[:, None] % side - at[None] % side).abs()
    beside = (steps <= 1) & shown[:, None] & shown[None]
    parts = _connected(beside | torch.eye(side * side, dtype=torch.bool))
    found = [parts == one for one in parts[shown].unique()]
    found = [one for one in found if LEAST < float(one.float().mean()) < 1 - LEAST]
    found.sort(key=lambda one: float(told[one].sum()), reverse=True)
    return [one.view(side, side) for one in found]


def _connected(linked: Tensor) -> Tensor:
    """Numbers of the connected parts of a graph [n, n] with every place linked to itself."""
    n = len(linked)
    labels = torch.arange(n)
    while True:
        lower = torch.where(linked, labels[None].expand(n, n), n).amin(1)
        if torch.equal(lower, labels):
            return labels.unique(return_inverse=True)[1]
        labels = lower
