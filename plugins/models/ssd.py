"""SSD: weights that matter more to what is to be forgotten than to everything together are dampened, without training.

θ_i ← min(λ F_D,i / F_f,i, 1) θ_i    where    F_f,i > α F_D,i

F: the diagonal of the Fisher information, over all training examples (D) and over those to forget (f).

Foster, Schoepf and Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening", AAAI
2024. Their code squares the mean gradient of a batch, which is no Fisher information: ``compat: official`` does too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from conceptguard import load_model
from conceptguard.making.examples import load_examples

from .fisher import of_batches, per_sample
from .forgetting import ForgetSettings, Forgetting, Lesson


class SSDMakeSettings(ForgetSettings):
    """How weights are chosen and dampened.

    alpha: a weight is dampened where it matters so many times as much to what is to be forgotten
    lam: λ above, how little is left of it
    compat: "official" squares mean gradients of batches, as the authors' code does; "paper", those of single examples
    batch: how many examples are in such a batch
    """

    alpha: float = Field(default=10.0, gt=0)
    lam: float = Field(default=1.0, gt=0)
    compat: Literal["paper", "official"] = "paper"
    batch: int = Field(default=64, ge=1)


class SSD(Forgetting):
    """Modules: weights that matter most to what is to be forgotten are dampened; nothing is trained."""

    name = "ssd"
    MakeSettings = SSDMakeSettings

    @classmethod
    def peers(cls) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
        """Single examples' gradients by a loop, and what the authors' code has in their place, of the embedded nets."""
        found: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {}
        for kind in ("resnet", "vit"):
            net: Any = load_model("emoji-classifier", variant=kind)
            net.requires_grad_(True)
            examples = load_examples(net.folder)
            some = examples.of("train")[:128]
            given = net, examples.inputs[some], examples.labels[some]
            ours = partial(_flat, per_sample, *given)
            found[f"a pass for each example, {kind}"] = ours, partial(_flat, of_batches, *given, batch=1)
            found[f"a pass for the batch, {kind}"] = ours, partial(_flat, of_batches, *given, batch=len(some))
        return found

    @classmethod
    def forget(cls, lesson: Lesson, settings: Any) -> dict[str, Any]:
        """As above."""
        with lesson.task.bar(2) as tick:
            everything = torch.cat([lesson.forget, lesson.retain]).sort().values
            every = lesson.kept("fisher", lambda: _fisher(lesson, everything, settings),
                                batch=settings.batch if settings.compat == "official" else 1)  # fmt: skip
            tick(0)
            own = _fisher(lesson, lesson.forget, settings)
            tick(1)
        dampened = 0
        with torch.no_grad():
            for name, parameter in lesson.net.named_parameters():
                chosen = own[name] > settings.alpha * every[name]
                factor = (settings.lam * every[name] / own[name].clamp_min(1e-38)).clamp_max(1)
                parameter.mul_(torch.where(chosen, factor, torch.ones_like(factor)))
                dampened += int(chosen.sum())
        return {"dampened": dampened, "of": sum(one.numel() for one in lesson.net.parameters())}


def _fisher(lesson: Lesson, places: Tensor, settings: Any) -> dict[str, Tensor]:
    some = lesson.inputs[places], lesson.labels[places]
    if settings.compat == "official":
        return of_batches(lesson.net, *some, batch=settings.batch)
    return per_sample(lesson.net, *some)


def _flat(fisher: Callable[..., dict[str, Tensor]], *given: Any, **more: Any) -> Tensor:
    return torch.cat([one.flatten() for one in fisher(*given, **more).values()])
