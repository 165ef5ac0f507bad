"""ESD: fine-tuning by the model's own knowledge of a concept, away from where the frozen model would go.

ε_θ(x_t, c)  ←  ε₀(x_t, ∅) − η (ε₀(x_t, c) − ε₀(x_t, ∅))        ε₀: the frozen model; x_t: of the trained one's runs

Gandikota et al., "Erasing Concepts from Diffusion Models", ICCV 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from pydantic import Field

from .trained_layers import LayerSettings, Plan, TrainedLayers

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.making.task import Task

    from .trained_layers import State


class ESDMakeSettings(LayerSettings):
    """How the layers are trained.

    The authors' repository learns whole matrices, in 1000 or 200 steps of one state at a rate of 1e-5 or 5e-5, from
    runs of 50 steps of the bare prompt.

    eta: how far past nothing the concept is pushed
    sampler: whose runs: the trained model's, as in the paper, or the frozen one's, as in the newer code
    """

    eta: float = Field(default=1.0, ge=0)
    sampler: Literal["trained", "frozen"] = "trained"


def goal(towards: Tensor, nothing: Tensor, eta: float) -> Tensor:
    """What the trained model is to say of the concept: as far from it as the frozen one goes towards it, times eta."""
    return nothing - eta * (towards - nothing)


class ESD(TrainedLayers):
    """Pictures: layers trained to say of a concept's prompt the opposite of what they said, put to work where one asks.

    Terms beside the denoiser's layers, gated by the prompt.
    """

    name = "esd"
    several = True
    MakeSettings = ESDMakeSettings

    @classmethod
    def plan(cls, task: Task) -> Plan:
        """ε_θ(x_t, c) against the goal."""
        s = task.settings

        def loss(now: State) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            towards, without = now.frozen(now.asked, now.nothing)
            (said,) = now.trained(now.asked)
            drawn = said if s.sampler == "trained" else towards
            return F.mse_loss(said, goal(towards, without, s.eta)), (drawn, without)

        return Plan(task.own(s.templates), loss)
