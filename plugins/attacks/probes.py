"""Probes of "when are concepts erased": what a guarded model does where its guard had not been looked at.

Lu et al., "When Are Concepts Erased From Diffusion Models?", NeurIPS 2025, https://arxiv.org/abs/2505.17013. Two of its
five, which need no training: completion (the unguarded model draws the first steps, the guarded one the rest) and
noise (more of it in the beginning, and in each step). The others are ``concept_inversion`` (textual inversion),
``in_context`` (inpainting) and ``classifier_guidance``.
"""

from __future__ import annotations

import torch

from conceptguard.attack import Ask, Attack, Attempt

from .walk import elsewhere, guided, noise

COMPLETED = 3  # steps at most; the paper takes them of 50
ETAS, SCALES = (1.0, 1.34, 1.68), (1.02, 1.04)


class Probes(Attack):
    """The guarded model goes on where the unguarded one began, or with more noise."""

    name = "probes"
    needs = "white box"
    paper = "https://arxiv.org/abs/2505.17013"
    vocabulary = False

    def search(self, ask: Ask) -> list[Attempt]:
        """Each kind in its turn, with other noise each time. Nothing is chosen: of so few pictures the best would be
        another best of N."""
        return [self._probe(ask, ask.wanted, i) for i in range(self.budget.pictures)]

    def control(self, ask: Ask) -> list[Attempt]:
        """The same where the unguarded model began something else, and as little noise as usual."""
        begun = elsewhere(self.target, self.budget.pictures, self.random)
        return [self._completed(ask, text, 1 + k % COMPLETED) for k, text in enumerate(begun)]

    def _probe(self, ask: Ask, begun: str, i: int) -> Attempt:
        kind, which = i % 2, i // 2
        if kind == 0:
            return self._completed(ask, begun, 1 + which % COMPLETED)
        scale, eta = SCALES[which % len(SCALES)], ETAS[which % len(ETAS)]
        return Attempt(ask.wanted, latents=scale * noise(self.target, self.random)[0], eta=eta)

    @torch.no_grad()
    def _completed(self, ask: Ask, begun: str, steps: int) -> Attempt:
        """From what the unguarded model made of ``begun`` in its first steps."""
        target, times = self.target, self.target.denoiser.timesteps(self.target.steps)
        steps = min(steps, len(times) - 1)
        latents = noise(self.target, self.random)
        for step in range(steps):
            said = guided(target, target.bare, begun, latents, times[step])
            latents = target.denoiser.ddim_step(said, latents, times[step], times[step + 1])
        return Attempt(ask.wanted, latents=latents[0], begin=steps)
