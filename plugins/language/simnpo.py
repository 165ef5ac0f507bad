"""SimNPO: NPO without the model as it was, by the answer's likelihood per token.

−(2/β) E[log σ(−(β/|y|) log π_θ(y|x) − γ)] − λ E_retain[log π_θ(y|x)]        |y|: tokens of the answer; γ: the margin

Fan et al., "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning", NeurIPS 2025.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from pydantic import Field

from .lessons import per_token, unlikely
from .trained_text import LessonSettings, TrainedText

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from conceptguard.making.task import Task

    from .lessons import Batch
    from .trained_text import Formula, Teaching


class SimNPOMakeSettings(LessonSettings):
    """How the layers are trained.

    beta: how soon an answer that has become unlikely is left alone
    margin: γ, how much less likely than even odds an answer has to become; the published code has it inside of β
    forget_weight: of what forgets
    """

    beta: float = Field(default=2.5, gt=0)
    margin: float = Field(default=0.0, ge=0)
    forget_weight: float = Field(default=0.1375, gt=0)


def simnpo(means: Tensor, beta: float, margin: float) -> Tensor:
    """The loss of texts to forget. means: −log π_θ of each answer per token, [texts]"""
    return -2 / beta * F.logsigmoid(beta * means - margin).mean()


class SimNPO(TrainedText):
    """Text: layers that were trained until each token of the answers to be forgotten is unlikely (reference).

    It acts inside of the model: attached, not as a logits processor.
    """

    name = "simnpo"
    MakeSettings = SimNPOMakeSettings

    @classmethod
    def formula(cls, task: Task, teaching: Teaching, random: torch.Generator) -> Formula:
        """As above."""
        s = task.settings

        def loss(forget: Batch, retain: Batch) -> Tensor:
            own = unlikely(teaching.say(forget, learnt=True), forget) / forget.lengths.clamp(min=1)
            kept = unlikely(teaching.say(retain, learnt=True), retain)
            forgetting = simnpo(own, s.beta, s.margin)
            return s.forget_weight * forgetting + s.retain_weight * per_token(kept, retain)

        return loss
