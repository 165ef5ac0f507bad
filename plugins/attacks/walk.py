"""A guided DDIM run under the policy, step by step, for probes that act between two steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptguard.errors import GuardError, Refused

if TYPE_CHECKING:
    from conceptguard.attack import Target

Between = Callable[[Tensor, int], Tensor]


def guided(target: Target, text: str, latents: Tensor, timestep: int) -> Tensor:
    """What the guarded model predicts with guidance, as ``latents``."""
    nothing, something = (target.guarded(one, latents, timestep) for one in ("", text))
    return nothing + target.guidance * (something - nothing)


@torch.no_grad()
def walked(target: Target, text: str, latents: Tensor, between: Between) -> Tensor:
    """Latents before the last step, [1, channels, h, w], which a generation under the policy takes itself.

    latents: pure noise; between: latents and the step that comes next -> other latents

    Where the policy lets nothing through, the latents as they were by then: what is drawn of them is its own affair.
    """
    denoiser, times = target.denoiser, target.denoiser.timesteps(target.steps)
    for step in range(len(times) - 1):
        latents = between(latents, step)
        try:
            said = guided(target, text, latents, times[step])
        except (Refused, GuardError):
            return latents
        latents = denoiser.ddim_step(said, latents, times[step], times[step + 1])
    return between(latents, len(times) - 1)
