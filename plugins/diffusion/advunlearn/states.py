"""States of the frozen model's own runs, with what it predicts there: what losses are read on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from conceptguard.generation.conditioning import Encoded, pick

if TYPE_CHECKING:
    from conceptguard.making.encoded_texts import EncodedTexts
    from conceptguard.protocols import Denoiser

    from .settings import AdvUnlearnMakeSettings

_AT_ONCE = 16  # rows


class States(NamedTuple):
    """States on the way to pictures of some texts.

    which: the text of each; latents: [n, channels, h, w]; times: [n]
    towards, nothing: what the frozen model predicts with the text and with none, [n, channels, h, w], float32
    """

    which: list[int]
    latents: Tensor
    times: Tensor
    towards: Tensor
    nothing: Tensor

    def some(self, count: int, random: torch.Generator) -> States:
        """``count`` of them by chance."""
        rows = torch.randint(len(self.which), (count,), generator=random)
        here = rows.to(self.latents.device)
        return States(
            [self.which[i] for i in rows.tolist()], self.latents[here], self.times[rows], self.towards[here],
            self.nothing[here],
        )  # fmt: skip


@torch.no_grad()
def states_of(
    denoiser: Denoiser, texts: EncodedTexts, nothing: Encoded, settings: AdvUnlearnMakeSettings, random: torch.Generator
) -> States:
    """``views`` states of guided runs of ``pool`` texts. nothing: the empty prompt, one row."""
    s = settings
    rows = torch.randint(len(texts), (s.pool,), generator=random).tolist()
    noise = torch.randn(s.pool, *denoiser.shape, generator=random)
    runs = denoiser.trajectories(noise, texts.rows(rows), pick(nothing, [0] * s.pool), s.trajectory_steps, s.guidance)
    steps = torch.randint(s.trajectory_steps, (s.views,), generator=random)
    runs_of = torch.randint(s.pool, (s.views,), generator=random)
    latents, times = runs[steps, runs_of], torch.tensor(denoiser.timesteps(s.trajectory_steps))[steps]
    which = [rows[i] for i in runs_of.tolist()]
    towards, without = [], []
    for i in range(0, s.views, _AT_ONCE):
        part = slice(i, i + _AT_ONCE)
        own = texts.rows(which[part])
        towards.append(denoiser(latents[part], times[part], own).float())
        without.append(denoiser(latents[part], times[part], pick(nothing, [0] * len(own.ids))).float())
    return States(which, latents, times, torch.cat(towards), torch.cat(without))
