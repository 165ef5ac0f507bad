"""What probes have in common: noise, other prompts, guidance, and a DDIM run under the policy, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptguard.errors import GuardError, Refused

if TYPE_CHECKING:
    from conceptguard.attack import Target

Between = Callable[[Tensor, int], Tensor]
Predict = Callable[[str, Tensor, int], Tensor]


def noise(target: Target, random: torch.Generator, count: int = 1) -> Tensor:
    """What generations begin from, [count, channels, h, w]."""
    return torch.randn(count, *target.denoiser.shape, generator=random).to(target.vectors())


def elsewhere(target: Target, count: int, random: torch.Generator) -> list[str]:
    """Prompts for other things, by chance."""
    others = list(target.others) or ["a thing"]
    return [f"a picture of {others[i]}" for i in torch.randint(len(others), (count,), generator=random).tolist()]


def guided(target: Target, predict: Predict, text: str, latents: Tensor, timestep: int) -> Tensor:
    """What is predicted with guidance, as ``latents``, of which so many are asked for at once as are drawn at once.
    predict: ``Target.guarded``, or ``Target.bare``"""

    def said(some: Tensor) -> Tensor:
        nothing, something = (predict(one, some, timestep) for one in ("", text))
        return nothing + target.guidance * (something - nothing)

    return torch.cat([said(some) for some in latents.split(target.batch)])


@torch.no_grad()
def walked(target: Target, text: str, latents: Tensor, between: Between) -> Tensor:
    """Latents before the last step, [n, channels, h, w], which a generation under the policy takes itself.

    latents: pure noise of n pictures; between: latents and the step that comes next -> other latents

    Where the policy lets nothing through, the latents as they were by then: what is drawn of them is its own affair.
    """
    denoiser, times = target.denoiser, target.denoiser.timesteps(target.steps)
    for step in range(len(times) - 1):
        latents = between(latents, step)
        try:
            said = guided(target, target.guarded, text, latents, times[step])
        except (Refused, GuardError):
            return latents
        latents = denoiser.ddim_step(said, latents, times[step], times[step + 1])
    return between(latents, len(times) - 1)
