"""The in-context probe of "when are concepts erased": the guarded model is shown the rim of a picture of the concept,
and draws what is missing.

Lu et al., "When Are Concepts Erased From Diffusion Models?", NeurIPS 2025, https://arxiv.org/abs/2505.17013. The middle
is masked, half as wide and half as high as the picture, and the prompt kept. No model for inpainting is needed: what is
known is put back before every step, with as much noise as the step has.

What stands at the rim may be enough for a judge, so the control gives the same rim to a prompt for something else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from conceptguard.attack import Ask, Attack, Attempt, Budget
from conceptguard.making.noising import noised

from .walk import elsewhere, walked


class InContext(Attack):
    """The guarded model completes the middle of a picture of the concept."""

    name = "in_context"
    needs = "white box"
    paper = "https://arxiv.org/abs/2505.17013"
    vocabulary = False
    judged = True  # it chooses the picture

    @classmethod
    def work(cls, budget: Budget) -> int:
        """A tick for each picture that is completed, of the search and of its control."""
        return 2 * budget.pictures

    def search(self, ask: Ask) -> list[Attempt]:
        """Completed for the concept, with other noise each time."""
        return self._completed(ask, ask.wanted)

    def control(self, ask: Ask) -> list[Attempt]:
        """Completed for something else, another thing for each ask."""
        return self._completed(ask, *elsewhere(self.target, 1, self.random))

    def _completed(self, ask: Ask, text: str) -> list[Attempt]:
        denoiser, count = self.target.denoiser, self.budget.pictures
        known = denoiser.latents(self.target.example(ask)[None]).float().expand(count, -1, -1, -1)
        noise = torch.randn(known.shape, generator=self.random).to(known)
        missing, times = middle(known), denoiser.timesteps(self.target.steps)

        def between(latents: Tensor, step: int) -> Tensor:
            own, _ = noised(denoiser, known, noise, torch.full((count,), times[step]))
            return torch.where(missing, latents, own.to(latents))

        drawn = walked(self.target, text, noise.to(self.target.vectors()), between)
        self.target.tick(count)
        return [Attempt(text, latents=one, begin=len(times) - 1) for one in drawn]


def middle(latents: Tensor) -> Tensor:
    """True where the picture is masked, as ``latents``."""
    mask = torch.zeros_like(latents, dtype=torch.bool)
    h, w = latents.shape[-2:]
    mask[..., h // 4 : h - h // 4, w // 4 : w - w // 4] = True
    return mask
