"""Trajectories that are walked while something is trained on them.

Losses ask what two conditions make the model predict at a state of a trajectory. The same two predictions take the
trajectory to its next state, so that states cost nothing besides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..protocols import Denoiser


class Stand(NamedTuple):
    """Where one trajectory is at one step: which prompt it draws, its timestep, and the next; -1 behind the last.

    seed: of the noise that it begins with here; None in the middle
    """

    prompt: int
    timestep: int
    following: int
    seed: int | None


class Walks:
    """As many trajectories as a batch has rows, each a guided DDIM run of one of the concept's prompts, over and over.

    They begin one after another, so that every step has states of all noise levels: the first ones are shorter.
    prompts: how many there are to draw from; steps: of the training; length: states of each trajectory
    latents: the states as they are now, [batch, channels, h, w], changed in place
    """

    def __init__(
        self, denoiser: Denoiser, prompts: int, steps: int, batch: int, length: int, random: torch.Generator
    ):  # fmt: skip
        self._denoiser = denoiser
        self.latents = torch.zeros(batch, *denoiser.shape, device=denoiser.device)
        rows = []
        for row in range(batch):
            stands: list[Stand] = []
            states = length - row * length // batch
            while len(stands) < steps:
                stands += _walk(states, length, denoiser, prompts, random)
                states = length
            rows.append(stands[:steps])
        self._steps: list[tuple[Stand, ...]] = list(zip(*rows))

    def at(self, step: int) -> tuple[Tensor, Tensor, list[int]]:
        """(latents [batch, ...], timesteps [batch], prompts) of a step, new trajectories begun."""
        for row, stand in enumerate(self._steps[step]):
            if stand.seed is not None:
                noise = torch.randn(self._denoiser.shape, generator=torch.Generator().manual_seed(stand.seed))
                self.latents[row] = noise.to(self.latents)
        stands = self._steps[step]
        return self.latents.clone(), torch.tensor([one.timestep for one in stands]), [one.prompt for one in stands]

    def go_on(self, step: int, outputs: Tensor) -> None:
        """One DDIM step of every trajectory. outputs: what the model says under guidance, [batch, ...]"""
        for row, (_, now, following, _) in enumerate(self._steps[step]):
            if following >= 0:
                state = self.latents[row]
                self.latents[row] = self._denoiser.ddim_step(outputs[row].to(state), state, now, following)


def _walk(states: int, length: int, denoiser: Denoiser, prompts: int, random: torch.Generator) -> list[Stand]:
    """One trajectory: a timestep out of each of equal parts of the schedule, noisiest first; the noise that it begins
    with is one of the noisiest of ``length`` parts, however few states it has."""
    prompt, seed = (int(torch.randint(most, (1,), generator=random)) for most in (prompts, 2**31))
    share = (torch.arange(states) + torch.rand(states, generator=random)) / states
    share[0] *= states / length
    times = [denoiser.timestep(1 - one) for one in share.tolist()]
    return [
        Stand(prompt, now, then, seed if i == 0 else None) for i, (now, then) in enumerate(zip(times, [*times[1:], -1]))
    ]
