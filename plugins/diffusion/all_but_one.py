"""All but One: the guidance towards a concept is turned elsewhere, and the unconditional prediction is held.

ε_θ(x_t, c) − ε_θ(x_t, ∅)  ←  ε₀(x_t, a) − ε₀(x_t, ∅)      and      ε_θ(x_t, ∅)  ←  ε₀(x_t, ∅)

a: an alternative that the user names; without one the left side goes to nothing.

Hong, Lee and Woo, "All but One: Surgical Concept Erasing with Model Preservation in Text-to-Image Diffusion Models",
AAAI 2024. There is no code of the authors'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from pydantic import Field

from conceptguard.making.encoded_texts import EncodedTexts

from .trained_layers import LayerSettings, Plan, TrainedLayers

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.making.task import Task

    from .trained_layers import State


class AllButOneMakeSettings(LayerSettings):
    """How the layers are trained. The paper's weights of its losses are not published.

    hold: weight of the loss that holds the unconditional prediction
    """

    hold: float = Field(default=1.0, ge=0)


class AllButOne(TrainedLayers):
    """Pictures: layers trained to be guided to an alternative, or nowhere, while the empty prompt is held where it was.

    Terms beside the denoiser's layers, gated by the prompt. Of use where a gate cannot be: exported to a pipeline that
    runs them for every prompt, they leave unconditional predictions, and with them all other pictures, nearly alone.
    """

    name = "all_but_one"
    several = True
    MakeSettings = AllButOneMakeSettings

    @classmethod
    def plan(cls, task: Task) -> Plan:
        """Both differences against each other, and the empty prompt against itself."""
        s, named = task.settings, any(one.replacement for one in task.each)
        alternatives = EncodedTexts(task.host, task.instead(s.templates)) if named else None

        def loss(now: State) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            *towards, without = now.frozen(*([alternatives.rows(now.rows)] if alternatives else []), now.nothing)
            said, empty = now.trained(now.asked, now.nothing)
            turned = F.mse_loss(said - empty, towards[0] - without if towards else 0 * without)
            return turned + s.hold * F.mse_loss(empty, without), (said, without)

        return Plan(task.own(s.templates), loss)
