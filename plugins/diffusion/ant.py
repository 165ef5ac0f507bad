"""ANT's core at inference: where structure is settled, the concept's condition direction is reversed. No training.

Li et al., "Set You Straight: Auto-Steering Denoising Trajectories to Sidestep Unwanted Concepts", 2025, fine-tune
towards ε_∅ − η(ε_S − ε_∅) in the mid-to-late steps and leave the first ones as they are. Here the same target is the
prediction itself: the concept's direction is taken off the prompt, and η of it once more.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from conceptguard.generation.denoising import Step
from conceptguard.method import Settings

from .guidance import Guidance


class ANTSettings(Settings):
    """eta: η, how far past nothing the concept is reversed
    early: the share of the noise schedule that is left alone, from its noisy end; the paper's 7 of 50 steps
    """

    eta: float = Field(default=1.0, ge=0)
    early: float = Field(default=0.14, ge=0, lt=1)


class ANT(Guidance):
    """Pictures: turns each step away from the concept, once the picture's layout has settled.

    ε_p − (1 + η)(ε_S − ε_∅) once the first steps are over: ε_∅ − η(ε_S − ε_∅) where the prompt is the concept.
    """

    name = "ant"
    Settings = ANTSettings

    def push(self, step: Step, rows: list[int], prompt: Tensor, concept: Tensor, nothing: Tensor) -> Tensor | None:
        """(1 + η)(ε_S − ε_∅)."""
        if step.noise > 1 - self.settings.early:
            return None
        return (1 + self.settings.eta) * (concept - nothing)
