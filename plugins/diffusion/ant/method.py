"""ANT: where structure is settled, the concept's condition direction is reversed, at every step or in what was learnt.

Li et al., "Set You Straight: Auto-Steering Denoising Trajectories to Sidestep Unwanted Concepts", 2025.

Without an artifact the paper's target is the prediction itself: the concept's direction is taken off the prompt, and η
of it once more. An artifact has been trained towards it, as the paper does.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from conceptguard.generation.denoising import Step
from conceptguard.making.task import Task
from conceptguard.markers import hookimpl
from conceptguard.method import Settings
from conceptguard.runtime.lowrank import LayerIndex, Terms

from ..guidance import Guidance
from ..trained_layers import Plan, TrainedLayers
from .train import ANTMakeSettings, plan


class ANTSettings(Settings):
    """Of predictions that no artifact changes.

    eta: η, how far past nothing the concept is reversed
    early: the share of the noise schedule that is left alone, from its noisy end; the paper's 7 of 50 steps
    """

    eta: float = Field(default=1.0, ge=0)
    early: float = Field(default=0.14, ge=0, lt=1)


class ANT(Guidance, TrainedLayers):
    """Pictures: turns each step away from the concept, once the picture's layout has settled.

    ε_p − (1 + η)(ε_S − ε_∅) once the first steps are over: ε_∅ − η(ε_S − ε_∅) where the prompt is the concept. Or, from
    an artifact, terms beside the denoiser's layers that were trained to predict the latter, gated by the prompt.
    """

    name = "ant"
    several = True
    Settings = ANTSettings
    MakeSettings = ANTMakeSettings

    @classmethod
    def plan(cls, task: Task) -> Plan:
        """The paper's losses and its mask, see ``train``."""
        return plan(task)

    def steers(self) -> bool:
        """Not with an artifact, whose terms do it."""
        return self.artifact is None

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """An artifact's terms; without one none, but a gate."""
        return Guidance.cross_attention(self, layers) if self.steers() else TrainedLayers.cross_attention(self, layers)

    @hookimpl
    def predict_noise(self, step: Step) -> None:
        """Changes the rows whose gate is open, where no artifact does."""
        if self.steers():
            super().predict_noise(step)

    def steers_at(self, step: Step) -> bool:
        """All but the early steps."""
        return step.noise <= 1 - float(self.settings.early)

    def push(
        self, step: Step, rows: list[int], prompt: Tensor, concept: Tensor, nothing: Tensor, *beside: Tensor
    ) -> Tensor:
        """(1 + η)(ε_S − ε_∅)."""
        return (1 + float(self.settings.eta)) * (concept - nothing)
