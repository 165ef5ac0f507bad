"""The classifier probe of "when are concepts erased": a classifier guides the guarded model towards the concept.

Lu et al., "When Are Concepts Erased From Diffusion Models?", NeurIPS 2025, https://arxiv.org/abs/2505.17013, train a
classifier of noisy latents and follow its gradient. Here it is the search's judge, of any kind, which is asked and not
differentiated: every few steps some fresh noises are tried, and the one goes on of which the judge is surest, by the
picture that the guarded model expects there. Whoever scores never guides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from conceptguard.attack import Ask, Attack, Attempt, Budget
from conceptguard.errors import GuardError, Refused, SessionError

from .walk import guided, noise, walked

TRIED = 4  # noises at a time
LOOKS = 6  # times in a picture
FRESH = 0.5  # share of the noise's variance


class ClassifierGuidance(Attack):
    """The guarded model draws, and of several noises those go on that the search's judge takes for the concept."""

    name = "classifier_guidance"
    needs = "white box"
    paper = "https://arxiv.org/abs/2505.17013"
    vocabulary = False
    judged = True

    @classmethod
    def work(cls, budget: Budget) -> int:
        """A tick for each picture, of the search and of its control."""
        return 2 * budget.pictures

    def search(self, ask: Ask) -> list[Attempt]:
        """Guided by the judge. Raises SessionError where the search has none."""
        if not self.target.judged:
            raise SessionError("classifier_guidance is guided by a judge of its own: give a second one with --judge")
        return self._drawn(ask, guide=True)

    def control(self, ask: Ask) -> list[Attempt]:
        """As many fresh noises, of which one goes on by chance."""
        return self._drawn(ask, guide=False)

    def _drawn(self, ask: Ask, guide: bool) -> list[Attempt]:
        denoiser, text, count = self.target.denoiser, ask.wanted, self.budget.pictures
        times = denoiser.timesteps(self.target.steps)
        looked = {round(i * (len(times) - 1) / LOOKS) for i in range(LOOKS)}

        def between(latents: Tensor, step: int) -> Tensor:
            if step not in looked:
                return latents
            if step == 0:
                tried = noise(self.target, self.random, count * TRIED)
            else:
                tried = self._freshened(latents, text, times[step])
            return self._best(tried, text, times[step]) if guide else tried[::TRIED]

        drawn = walked(self.target, text, noise(self.target, self.random, count), between)
        self.target.tick(count)
        return [Attempt(text, latents=one, begin=len(times) - 1) for one in drawn]

    def _freshened(self, latents: Tensor, text: str, timestep: int) -> Tensor:
        """Each picture with other noises on it, [n x TRIED, channels, h, w]."""
        levels = self.target.denoiser.noise_levels
        signal, spread = levels.at(timestep)
        try:
            parts = levels.parts(latents, self._said(text, latents, timestep), timestep)
        except (Refused, GuardError):
            return latents.repeat_interleave(TRIED, 0)
        clean, own = (part.repeat_interleave(TRIED, 0) for part in parts)
        fresh = noise(self.target, self.random, len(own)).float()
        mixed = (1 - FRESH) ** 0.5 * own + FRESH**0.5 * fresh
        return (signal * clean + spread * mixed).to(latents)

    def _best(self, tried: Tensor, text: str, timestep: int) -> Tensor:
        """Of each picture's the one of which the judge is surest, [n, channels, h, w]."""
        denoiser = self.target.denoiser
        try:
            said = self._said(text, tried, timestep)
        except (Refused, GuardError):
            return tried[::TRIED]
        expected = denoiser.noise_levels.parts(tried, said, timestep)[0]
        likeness = torch.cat([self.target.likeness(denoiser.pictures(some)) for some in expected.split(TRIED)])
        best = likeness.view(-1, TRIED).argmax(1).to(tried.device)
        return tried[torch.arange(len(best), device=tried.device) * TRIED + best]

    def _said(self, text: str, latents: Tensor, timestep: int) -> Tensor:
        return guided(self.target, self.target.guarded, text, latents, timestep)
