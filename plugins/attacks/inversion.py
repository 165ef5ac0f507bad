"""Latents from which a guarded model draws a given picture: DDIM run backwards.

    z_t = s_t / s_{t-1} (z_{t-1} - n_{t-1} ε) + n_t ε,    ε = ε_guarded(z_t, t, prompt)

which is solved for z_t by fixed-point iterations, of which a few are enough for small latents; the papers optimise.
With no prompt the two sides of guidance are one, at any scale.

Whether such an attack shows a concept, or only that a model can write down any picture as noise, its control says: the
same picture upside down and in other colours, which no model has ever drawn, inverted as well, and turned back before
it is judged. Where that comes back as often, the attack has found nothing about the concept. A model that never saw the
concept is the better control, where somebody has one: ``redteam --examples`` gives it pictures of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptguard.attack import Ask, Attack, Attempt, Budget

if TYPE_CHECKING:
    from conceptguard.attack import Target

FIXED = 3  # iterations


@torch.no_grad()
def inverted(target: Target, clean: Tensor, prompt: str) -> Tensor:
    """The noise from which ``prompt`` at guidance 1 gives these latents back, [channels, h, w]. clean: [1, ...]

    Raises ``Refused`` and ``GuardError`` where the policy lets nothing through.
    """
    times = target.denoiser.timesteps(target.steps)
    levels = target.denoiser.noise_levels
    latents, before = clean.float(), 0
    for t in reversed(times):
        (signal, noise), (signal_before, noise_before) = levels.at(t), levels.at(before)
        guess = latents
        for _ in range(FIXED):
            _, epsilon = levels.parts(guess, target.guarded(prompt, guess.to(clean), t), t)
            guess = signal / signal_before * (latents - noise_before * epsilon) + noise * epsilon
        latents, before = guess, t
    return latents[0]


def upside_down(picture: Tensor) -> Tensor:
    """Upside down and in other colours, as ``Attempt.turned`` turns them back. In negative would be too much for an
    autoencoder. picture: [3, h, w]"""
    return picture.roll(-1, 0).flip(-2)


class Inversion(Attack):
    """A search for latents. ``prompt``: what stands beside them, nothing by default."""

    vocabulary = False
    judged = True  # it chooses the picture

    @classmethod
    def work(cls, budget: Budget) -> int:
        """A tick for the picture, and one for its control."""
        return 2

    def prompt(self, ask: Ask) -> str:
        """In words."""
        return ""

    def search(self, ask: Ask) -> list[Attempt]:
        """One: the noise of the unguarded model's picture."""
        return [self._of(ask, self.target.example(ask), turned=False)]

    def control(self, ask: Ask) -> list[Attempt]:
        """The noise of the same picture as no model has drawn it."""
        return [self._of(ask, upside_down(self.target.example(ask)), turned=True)]

    def _of(self, ask: Ask, picture: Tensor, turned: bool) -> Attempt:
        text = self.prompt(ask)
        latents = inverted(self.target, self.target.denoiser.latents(picture[None]), text)
        self.target.tick()
        parts, weights = ([text], [1.0]) if text else ([], [])
        return Attempt(text, parts=parts, weights=weights, latents=latents, turned=turned)
