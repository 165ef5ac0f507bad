"""Sparsity first: a model with few weights forgets what it is not reminded of.

min over θ of  E_retain[−log p(y|x)] + α (1 − t/T) ‖θ‖₁        or: prune the smallest weights, then E_retain alone

Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from .forgetting import ForgetSettings, Forgetting
from .lesson import Lesson


class SparseUnlearningMakeSettings(ForgetSettings):
    """How it is made sparse, and reminded of what is to be retained.

    how: "l1", by a penalty on all parameters that fades; "prune", the smallest weights of all layers together first
    share: of the weights that are pruned
    penalty: α above
    steps, batch, lr: of the reminding, by Adam
    """

    how: Literal["l1", "prune"] = "l1"
    share: float = Field(default=0.9, gt=0, lt=1)
    penalty: float = Field(default=1e-4, ge=0)
    steps: int = Field(default=200, ge=1)
    batch: int = Field(default=64, ge=1)
    lr: float = Field(default=4e-3, gt=0)


class SparseUnlearning(Forgetting):
    """Modules: a classifier is made sparse and reminded of what it is to retain; what is not repeated is lost."""

    name = "sparse_unlearning"
    MakeSettings = SparseUnlearningMakeSettings

    @classmethod
    def forget(cls, lesson: Lesson, settings: Any) -> dict[str, Any]:
        """As above."""
        s, net = settings, lesson.net
        weights = [one.weight for one in net.modules() if isinstance(one, (nn.Linear, nn.Conv2d))]
        masks: list[Tensor] = []
        if s.how == "prune":
            sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
            least = sizes.kthvalue(max(1, int(s.share * len(sizes)))).values
            masks = [(weight.detach().abs() > least).to(weight) for weight in weights]

        def loss(step: int) -> Tensor:
            with torch.no_grad():
                for weight, mask in zip(weights, masks):
                    weight *= mask
            given, labels = lesson.seen(lesson.some(lesson.retain, s.batch))
            found = F.cross_entropy(net(given), labels)
            if masks:
                return found
            size = torch.stack([one.abs().sum() for one in net.parameters()]).sum()
            return found + s.penalty * (1 - step / s.steps) * size

        lesson.tune(loss, s.steps, s.lr)
        with torch.no_grad():
            for weight, mask in zip(weights, masks):
                weight *= mask
        small = sum(int((weight.detach().abs() < 1e-3).sum()) for weight in weights)
        return {"nearly_zero": round(small / sum(weight.numel() for weight in weights), 4)}
