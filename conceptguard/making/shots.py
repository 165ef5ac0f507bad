"""Pictures that a model draws itself, seen at any noise level: what trainings have instead of a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..generation.conditioning import Encoded, pick
from .noising import noised
from .pictures import drawn

if TYPE_CHECKING:
    from ..protocols import Denoiser


class Noisy(NamedTuple):
    """Pictures with noise on them, [rows, channels, h, w], and what is to be said of them; texts: which each shows."""

    latents: Tensor
    times: Tensor
    wanted: Tensor
    texts: list[int]

    def above(self, other: Noisy) -> Noisy:
        """Both, one below the other."""
        pairs = [torch.cat([own, its]) for own, its in zip(self[:3], other[:3])]
        return Noisy(pairs[0], pairs[1], pairs[2], self.texts + other.texts)


class Shots:
    """Pictures that the model draws of some texts."""

    def __init__(self, denoiser: Denoiser, texts: Encoded, nothing: Encoded, count: int, random: torch.Generator):
        self._denoiser, self._random = denoiser, random
        self._shown = torch.randint(len(texts.ids), (count,), generator=random)
        self._clean = drawn(denoiser, pick(texts, self._shown.tolist()), nothing, count, random)

    def some(self, count: int, noisiest: float = 1.0) -> Noisy:
        """Any of them at any noise level up to a share of the schedule."""
        rows = torch.randint(len(self._clean), (count,), generator=self._random)
        shares = (torch.rand(count, generator=self._random) * noisiest).tolist()
        times = torch.tensor([self._denoiser.timestep(share) for share in shares])
        noise = torch.randn(count, *self._denoiser.shape, generator=self._random)
        latents, wanted = noised(self._denoiser, self._clean[rows], noise, times)
        return Noisy(latents, times, wanted, self._shown[rows].tolist())
