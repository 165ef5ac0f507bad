"""NPO: an answer that is to be forgotten is made less likely than it was, the less urgently the less likely it is.

(2/β) E[log(1 + (π_θ(y|x) / π_ref(y|x))^β)] − E_retain[log π_θ(y|x)]        π_ref: the model as it was

As β goes to 0 it becomes gradient ascent, which knows no end. The published best variant, with the retain loss.

Zhang et al., "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning", COLM 2024.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field

from .lessons import per_token, unlikely
from .trained_text import LessonSettings, TrainedText

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.making.task import Task

    from .lessons import Batch
    from .trained_text import Formula, Teaching


class NPOMakeSettings(LessonSettings):
    """How the layers are trained.

    beta: how soon an answer that has become unlikely is left alone
    """

    beta: float = Field(default=0.1, gt=0)


def npo(sums: Tensor, before: Tensor, beta: float) -> Tensor:
    """The loss of texts to forget. sums: −log π_θ of whole answers, [texts]; before: the same of the model as it was"""
    return -2 / beta * F.logsigmoid(beta * (sums - before)).mean()


class NPO(TrainedText):
    """Text: layers that were trained until the answers to be forgotten are less likely than they were (reference).

    It acts inside of the model: attached, not as a logits processor.
    """

    name = "npo"
    MakeSettings = NPOMakeSettings

    @classmethod
    def formula(cls, task: Task, teaching: Teaching, random: torch.Generator) -> Formula:
        """As above."""
        s = task.settings

        def loss(forget: Batch, retain: Batch) -> Tensor:
            with torch.no_grad():
                before = unlikely(teaching.say(forget, learnt=False), forget)
            own = unlikely(teaching.say(forget, learnt=True), forget)
            kept = unlikely(teaching.say(retain, learnt=True), retain)
            return npo(own, before, s.beta) + s.retain_weight * per_token(kept, retain)

        return loss
