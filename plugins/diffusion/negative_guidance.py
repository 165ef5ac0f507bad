"""Negative guidance: a concept as one more negative prompt, beside the caller's own.

What a negative prompt does (Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, with another prompt in place
of the empty one), as a guard that nobody can leave out: ε_∅ + w[(ε_p − ε_∅) − s(ε_S − ε_∅)], ε_∅ being what the
caller's negative prompt predicts.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from conceptguard.generation.denoising import Step
from conceptguard.method import Settings

from .guidance import Guidance


class NegativeGuidanceSettings(Settings):
    """scale: s, in units of the guidance scale: 1 pushes from the concept as far as the prompt pulls"""

    scale: float = Field(default=1.0, gt=0)


class NegativeGuidance(Guidance):
    """Pictures: pushes every step away from the concept, as a negative prompt that nobody can leave out.

    Every step is pushed away from what the model itself predicts for the concept.
    """

    name = "negative_guidance"
    Settings = NegativeGuidanceSettings

    def push(
        self, step: Step, rows: list[int], prompt: Tensor, concept: Tensor, nothing: Tensor, *beside: Tensor
    ) -> Tensor:
        """s(ε_S − ε_∅)."""
        return self.settings.scale * (concept - nothing)
