"""What ANT trains: late steps away from the concept, early ones as they were, and only weights that matter for it.

late:   ε_θ(x_t, c)  ←  ε₀(x_t, ∅) − η(ε₀(x_t, c) − ε₀(x_t, ∅))      early, times ``keep``:  the same with + η
both:   ε_θ(x_t, ∅)  ←  ε₀(x_t, ∅), times ``hold``

The authors' repository differs in two places. Both of its unconditional losses are made of tensors without gradients,
so that nothing holds the empty prompt; and its mask keeps the half of a matrix whose gradients are smallest, where the
paper keeps the largest. What is here is the paper's; ``compat: official`` does as the repository does, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from conceptguard.making.templates import filled

from ..salun import salient
from ..trained_layers import Layers, LayerSettings, Plan

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.making.task import Task

    from ..trained_layers import State


class ANTMakeSettings(LayerSettings):
    """How the layers are trained. In brackets what the authors' repository uses where it differs.

    eta: η, how far past nothing the concept is reversed; early: the share of the noise schedule, from its noisy end,
    where the concept still draws the layout
    keep: weight of the early steps' losses, where predictions with and without the concept differ little [1]; hold: of
    the empty prompt's
    compat: "paper", or "official" for what the authors' repository trains
    share: of each weight matrix, the part that may move: where gradients are largest for every prompt of the concept;
    1 trains them whole
    views: runs of each prompt that this is told by
    layers: which of the denoiser's [the whole of it]; rank: of the change that is kept; null keeps it whole
    steps, lr: of Adam [250 and 5e-4]
    """

    eta: float = Field(default=1.0, ge=0)
    early: float = Field(default=0.14, ge=0, lt=1)
    keep: float = Field(default=10.0, ge=0)
    hold: float = Field(default=0.5, ge=0)
    compat: Literal["paper", "official"] = "paper"
    share: float = Field(default=0.5, gt=0, le=1)
    views: int = Field(default=5, ge=1)
    layers: Layers = "all"
    rank: int | None = Field(default=None, ge=1)
    steps: int = Field(default=120, ge=1)
    lr: float = Field(default=5e-4, gt=0)


def plan(task: Task) -> Plan:
    """Losses and mask of a task."""
    s = task.settings
    settled, own = task.host.denoiser().timestep(1 - s.early), task.own(s.templates)

    def loss(now: State) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        towards, without = now.frozen(now.asked, now.nothing)
        said, empty = now.trained(now.asked, now.nothing)
        early = (now.times > settled).to(said.device)
        if s.compat == "official":
            return official(said, empty, towards, without, early, s.eta, s.hold, s.keep), (said, without)
        # The paper's two expectations, one over late states and one over early ones, of which runs have fewer.
        weights = torch.where(early, s.keep / max(s.early, 1e-6), 1 / (1 - s.early))
        return (weights * losses(said, empty, towards, without, early, s.eta, s.hold)).mean(), (said, without)

    def mask(parameters: Sequence[Tensor], some: Callable[[Sequence[int]], State]) -> list[Tensor]:
        """1 where a weight is among those that matter most for every prompt of a concept, of several of any, else 0."""
        any_of = [torch.zeros_like(parameter) for parameter in parameters]
        for concept in task.each:
            kept = [torch.ones_like(parameter) for parameter in parameters]
            for prompt in concept.prompts:
                rows = [own.index(text) for text in filled(s.templates, [prompt])]
                state = some([rows[i % len(rows)] for i in range(s.views)])
                for total, gradient in zip(kept, torch.autograd.grad(loss(state)[0], list(parameters))):
                    total *= smallest(gradient, s.share) if s.compat == "official" else salient([gradient], s.share)[0]
            any_of = [torch.maximum(found, more) for found, more in zip(any_of, kept)]
        return any_of

    return Plan(own, loss, mask=mask if s.share < 1 else None)


def losses(
    said: Tensor, empty: Tensor, towards: Tensor, without: Tensor, early: Tensor, eta: float, hold: float
) -> Tensor:
    """The paper's losses of each row, [rows].

    said, empty: what the trained model predicts of the concept and of nothing; towards, without: what the frozen one
    does, all [rows, ...]; early: [rows], which of them stand at early steps
    """
    past = eta * (towards - without)
    goal = torch.where(early.view(-1, *[1] * (past.dim() - 1)), without + past, without - past)
    return ((said - goal) ** 2 + hold * (empty - without) ** 2).flatten(1).mean(1)


def official(
    said: Tensor, empty: Tensor, towards: Tensor, without: Tensor, early: Tensor, eta: float, hold: float, keep: float
) -> Tensor:
    """The repository's loss: late rows and, ``keep`` times, early ones, whose empty prompt has no gradient."""
    rows = losses(said, empty.detach(), towards, without, early, eta, hold)
    late, first = rows[~early], rows[early]
    return (late.mean() if len(late) else rows.sum() * 0) + keep * (first.mean() if len(first) else 0)


def smallest(gradient: Tensor, share: float) -> Tensor:
    """The repository's mask: 1 where a weight's gradient is among the smallest, else 0."""
    sizes = gradient.abs()
    return (sizes <= sizes.flatten().kthvalue(max(1, int(share * sizes.numel()))).values).to(gradient)
