"""SLD: safe latent diffusion. Guidance away from a concept, where prompt and concept predict alike, with momentum.

Schramowski et al., "Safe Latent Diffusion: Mitigating Inappropriate Degeneration in Diffusion Models", CVPR 2023.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from conceptguard.generation.denoising import Step
from conceptguard.method import Settings

from .guidance import Guidance


class Level(NamedTuple):
    """One of the paper's configurations. warmup δ in steps, scale s_S, threshold λ, momentum s_m, decay β_m."""

    warmup: int
    scale: float
    threshold: float
    momentum: float
    decay: float


LEVELS = {
    "weak": Level(15, 200, 0.0, 0.0, 0.0),
    "medium": Level(10, 1000, 0.01, 0.3, 0.4),
    "strong": Level(7, 2000, 0.025, 0.5, 0.7),
    "max": Level(0, 5000, 1.0, 0.5, 0.7),
}


class SLDSettings(Settings):
    """level: how hard the guard pushes, from "weak" to "max"

    The paper's steps are of 50 or 100: with few steps a long warm-up leaves little, "max" has none.
    """

    level: Literal["weak", "medium", "strong", "max"] = "max"


ALIKE = 0.05  # of the way from nothing to the concept: a prompt that is no farther from the concept asks for it alone


def safety_guidance(
    prompt: Tensor, concept: Tensor, nothing: Tensor, momentum: Tensor, level: Level
) -> tuple[Tensor, Tensor]:
    """(g, next momentum) from ε_p, ε_S, ε_∅ and the momentum ν, all [rows, ...].

    μ = min(|ε_p − ε_S| s_S, 1) where ε_p − ε_S < λ, else 0; g = μ (ε_S − ε_∅) + s_m ν; ν ← β_m ν + (1 − β_m) g.

    The paper has max(|φ|, 1) for this μ; min, which is the authors' code, vanishes with the difference. So of all
    prompts the concept's own phrase, and what is next to it, would have nothing taken off: there μ is 1.
    """
    apart = prompt - concept
    mu = torch.where(apart < level.threshold, (apart.abs() * level.scale).clamp(max=1), 0)
    far, way = (one.flatten(1).norm(dim=1) for one in (apart, nothing - concept))
    mu[far <= ALIKE * way] = 1
    g = mu * (concept - nothing) + level.momentum * momentum
    return g, level.decay * momentum + (1 - level.decay) * g


class SLD(Guidance):
    """Pictures: pushes each step away from the concept, from weak to max (safe latent diffusion).

    ε_∅ + w[(ε_p − ε_∅) − g], from step δ on; the momentum grows from the first step.
    """

    name = "sld"
    Settings = SLDSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.level = LEVELS[self.settings.level]
        self._momentum: dict[tuple[int, int], Tensor] = {}

    def push(
        self, step: Step, rows: list[int], prompt: Tensor, concept: Tensor, nothing: Tensor, *beside: Tensor
    ) -> Tensor | None:
        """See ``safety_guidance``. Each row of each call of a step has its own momentum."""
        at, zero = step.moment, torch.zeros_like(prompt[0])
        if at.step == 0 and at.within == 0:
            self._momentum.clear()
        momentum = torch.stack([self._momentum.get((at.within, row), zero) for row in rows])
        g, momentum = safety_guidance(prompt, concept, nothing, momentum, self.level)
        self._momentum.update({(at.within, row): m for row, m in zip(rows, momentum)})
        return g if at.step >= self.level.warmup else None
