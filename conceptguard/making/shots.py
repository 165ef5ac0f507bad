"""A few pictures seen at any noise level: what trainings have instead of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .noising import noised
from .pictures import drawn

if TYPE_CHECKING:
    from ..generation.conditioning import Encoded
    from ..protocols import Denoiser
    from .encoded_texts import EncodedTexts


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


@dataclass
class Shots:
    """Some pictures, drawn at random again and again. clean: their latents, [n, ...]; shown: which text each shows"""

    denoiser: Denoiser
    clean: Tensor
    shown: list[int]
    random: torch.Generator

    @classmethod
    def drawn(
        cls, denoiser: Denoiser, texts: EncodedTexts, nothing: Encoded, count: int, random: torch.Generator
    ) -> Shots:
        """What the model draws itself of any of the texts."""
        shown = torch.randint(len(texts), (count,), generator=random).tolist()
        return cls(denoiser, drawn(denoiser, texts.rows(shown), nothing, count, random), shown, random)

    def some(self, count: int, noisiest: float = 1.0) -> Noisy:
        """Any of them at any noise level up to a share of the schedule."""
        rows = torch.randint(len(self.clean), (count,), generator=self.random).tolist()
        shares = (torch.rand(count, generator=self.random) * noisiest).tolist()
        times = torch.tensor([self.denoiser.timestep(share) for share in shares])
        noise = torch.randn(count, *self.denoiser.shape, generator=self.random)
        latents, wanted = noised(self.denoiser, self.clean[rows], noise, times)
        return Noisy(latents, times, wanted, [self.shown[row] for row in rows])
