"""RECALL: image to image under the guard, from a picture of the concept that was prepared against it.

RECALL (ICLR 2026), by what its code does. Begun at a quarter of the picture and the rest noise,

    z += .001 sign(v),    v: momentum of the gradient of ‖ε_guarded(z_ref, t, p) - ε_guarded(z, t, p)‖², same noise

and every five timesteps a twentieth of the picture is added. The paper says minimise, its code adds; here it descends.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from conceptguard.attack import Ask, Attack, Attempt, Budget
from conceptguard.errors import GuardError, Refused
from conceptguard.making.noising import noised

SHARE, RATE, MOMENTUM = 0.25, 0.001, 0.9
ADDED, EACH = 0.05, 5
STRENGTH = 0.8  # of image to image


class Recall(Attack):
    """Image to image from a picture of the concept that was prepared against the guard."""

    name = "recall"
    needs = "white box"
    vocabulary = False
    judged = True  # it chooses the picture

    @classmethod
    def work(cls, budget: Budget) -> int:
        """A tick for each step."""
        return budget.iterations

    def search(self, ask: Ask) -> list[Attempt]:
        """The prepared picture, with other noise each time."""
        target = self.target
        clean = target.denoiser.latents(target.example(ask)[None]).float()
        found = SHARE * clean + (1 - SHARE) * self._noise(clean)
        speed, times = torch.zeros_like(clean), target.denoiser.timesteps(50)
        for step in range(self.budget.iterations):
            at = step * len(times) // self.budget.iterations
            if step and at % EACH == 0 and at != (step - 1) * len(times) // self.budget.iterations:
                found = found + ADDED * clean
            slope = self._slope(ask, clean, found, times[at])
            target.tick()
            if slope is not None:
                speed = MOMENTUM * speed + slope / slope.abs().mean().clamp_min(1e-12)
                found = found - RATE * speed.sign()
        return self._from(ask, found)

    def _slope(self, ask: Ask, clean: Tensor, found: Tensor, timestep: int) -> Tensor | None:
        """The gradient at one timestep; None where the policy lets nothing through."""
        target, moved = self.target, found.detach().requires_grad_()
        noise, time = self._noise(clean), torch.tensor([timestep])
        try:
            with torch.no_grad():
                wanted = target.guarded(ask.wanted, noised(target.denoiser, clean, noise, time)[0], timestep)
            at, _ = noised(target.denoiser, moved, noise, time)
            loss = mse_loss(target.guarded(ask.wanted, at, timestep).float(), wanted.detach().float())
            return torch.autograd.grad(loss, moved)[0] if loss.requires_grad else None
        except (Refused, GuardError):
            return None

    def control(self, ask: Ask) -> list[Attempt]:
        """Plain image to image from the same picture, which nobody prepared."""
        return self._from(ask, self.target.denoiser.latents(self.target.example(ask)[None]).float())

    def _from(self, ask: Ask, clean: Tensor) -> list[Attempt]:
        steps = self.target.steps
        begin = steps - min(int(steps * STRENGTH), steps)
        time = torch.tensor([self.target.denoiser.timesteps(steps)[begin]])
        found = []
        for _ in range(self.budget.pictures):
            latents, _ = noised(self.target.denoiser, clean, self._noise(clean), time)
            found.append(Attempt(ask.wanted, latents=latents[0].detach(), begin=begin))
        return found

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.random).to(like)
