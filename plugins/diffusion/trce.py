"""TRCE's second stage at inference: early steps turn from the concept to a safe one. No training.

Chen et al., "TRCE: Towards Reliable Malicious Concept Erasure in Text-to-Image Diffusion Models", 2025, fine-tune the
first half of the trajectory so that predictions are nearer to a safe concept's than to the malicious one's. Here the
difference of the two is taken off the prediction itself; nothing replaces the paper's first stage, which edits weights.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from conceptguard.generation.denoising import Step
from conceptguard.markers import hookimpl
from conceptguard.method import Settings
from conceptguard.runtime.lowrank import LayerIndex, Terms

from .guidance import Guidance


class TRCESettings(Settings):
    """scale: in units of the guidance scale: 1 puts the safe concept where the guarded one was
    early: the share of the noise schedule that is steered, from its noisy end; the paper's 25 of 50 steps
    """

    scale: float = Field(default=1.0, gt=0)
    early: float = Field(default=0.5, gt=0, le=1)


class TRCE(Guidance):
    """Pictures: turns the first steps from the concept to its replacement.

    ε_p − s(ε_S − ε_safe) in the first steps; the safe concept is the policy's ``replacement``, or nothing.
    """

    name = "trce"
    Settings = TRCESettings

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """As for every guidance; at attach, also the safe concept's encoding."""
        self.encoded(self.own_concept().replacement)
        return super().cross_attention(layers)

    def push(self, step: Step, rows: list[int], prompt: Tensor, concept: Tensor, nothing: Tensor) -> Tensor | None:
        """s(ε_S − ε_safe). One more row in the denoiser for each guarded one while it lasts."""
        if step.noise < 1 - self.settings.early:
            return None
        assert step.denoise is not None
        safe = step.denoise(self.encoded(self.own_concept().replacement), rows)
        return self.settings.scale * (concept - safe.float())
