"""TRCE: a concept's end tokens are read as a safe one's, and early steps turn from the one to the other.

Chen et al., "TRCE: Towards Reliable Malicious Concept Erasure in Text-to-Image Diffusion Models", 2025. The first stage
is an artifact, see ``make``. The second, for which they fine-tune the first half of the trajectory so that predictions
are nearer to the safe concept's than to the malicious one's, is here without training: the difference of the two is
taken off the prediction itself.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.formats import read_artifact
from conceptguard.generation.denoising import Step
from conceptguard.making.task import Learned, Task
from conceptguard.markers import hookimpl
from conceptguard.method import Settings
from conceptguard.runtime.lowrank import LayerIndex, Terms

from ..guidance import Guidance
from .make import TRCEMakeSettings, learn


class TRCESettings(Settings):
    """scale: in units of the guidance scale: 1 puts the safe concept where the guarded one was; 0: the artifact alone
    early: the share of the noise schedule that is steered, from its noisy end; the paper's 25 of 50 steps
    nearer: steer only predictions that are nearer to the guarded concept's than to the safe one's, where the paper's
    loss would teach; by default all of them, an artifact brings true
    """

    scale: float = Field(default=1.0, ge=0)
    early: float = Field(default=0.5, gt=0, le=1)
    nearer: bool = False


class TRCE(Guidance):
    """Pictures: the concept's end token reads as its replacement's; turns the first steps from the one to the other.

    With an artifact its terms, beside ε_p − s(ε_S − ε_safe) in the first steps; with a concept in words the latter
    alone. The safe concept is the ``replacement``, or nothing.
    """

    name = "trce"
    several = True
    from_nothing = False
    Settings = TRCESettings
    MakeSettings = TRCEMakeSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        if not self.steers() and self.artifact is None:
            raise PolicyError(
                f"guard '{self.guard.label}': without an artifact scale: 0 guards nothing: give one, which "
                "`conceptguard make trce` makes, or a scale"
            )

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """The first stage, solved in closed form: see ``make``."""
        return learn(task)

    def steers(self) -> bool:
        """The second stage, which a scale of 0 leaves out."""
        return bool(self.settings.scale)

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The artifact's terms, where there is one; at attach, also the safe concept's encoding."""
        terms = super().cross_attention(layers)
        if self.steers():
            self.encoded(self.own_concept().replacement)
        if self.artifact is not None:
            terms.factors = read_artifact(self.artifact, layers, base_weights=self.host.weights())
        return terms

    @hookimpl
    def predict_noise(self, step: Step) -> None:
        """The second stage."""
        if self.steers():
            super().predict_noise(step)

    def steers_at(self, step: Step) -> bool:
        """The early steps."""
        return step.noise >= 1 - float(self.settings.early)

    def beside(self) -> list[str]:
        """The safe concept."""
        return [self.own_concept().replacement]

    def push(  # type: ignore[override]
        self, step: Step, rows: list[int], prompt: Tensor, concept: Tensor, nothing: Tensor, safe: Tensor
    ) -> Tensor:
        """s(ε_S − ε_safe). Two more rows in the denoiser for each guarded one while it lasts."""
        g: Tensor = self.settings.scale * (concept - safe)
        if self.settings.nearer:
            g = g * nearer(prompt, concept, safe).view(-1, *[1] * (g.dim() - 1))
        return g


def nearer(prompt: Tensor, concept: Tensor, safe: Tensor) -> Tensor:
    """Which predictions ε_p are nearer to ε_S than to ε_safe, all [rows, ...] -> [rows], bool.

    The paper compares with what guidance of scale 15 makes of the two, which a prediction without guidance is never
    near: by that, the concept itself is nearer to a safe one of no words.
    """
    to_concept, to_safe = ((prompt - one).flatten(1).norm(dim=1) for one in (concept, safe))
    return to_concept < to_safe
