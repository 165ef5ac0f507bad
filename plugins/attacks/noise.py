"""Places at which a guarded prediction is asked: pictures of the concept with noise on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from conceptguard.attack import Ask
from conceptguard.errors import GuardError, Refused
from conceptguard.making.noising import losses, noised

if TYPE_CHECKING:
    from conceptguard.attack import Attack, Budget, Target

TIMES = 1000


class Place(NamedTuple):
    """latents: a picture with noise on it [1, channels, h, w]; wanted: what a model should say there if it drew from
    that picture, as ``latents``."""

    latents: Tensor
    wanted: Tensor
    timestep: int


def place(target: Target, clean: Tensor, timestep: int, random: torch.Generator) -> Place:
    """One with fresh noise. clean: latents of a picture, [1, channels, h, w]"""
    noise = torch.randn(clean.shape, generator=random).to(clean)
    latents, wanted = noised(target.denoiser, clean, noise, torch.tensor([timestep]))
    return Place(latents.to(clean), wanted, timestep)


def anywhere(target: Target, clean: Tensor, random: torch.Generator) -> Place:
    """At any timestep."""
    return place(target, clean, int(torch.randint(TIMES, (1,), generator=random)), random)


def loss_at(target: Target, text: str, at: Place, vectors: Tensor | None = None) -> Tensor | None:
    """How far the guarded model is from what is wanted there, with gradients towards ``vectors``; None where the policy
    lets nothing through, which no gradient leads away from."""
    try:
        return losses(target.guarded(text, at.latents, at.timestep, vectors), at.wanted).mean()
    except (Refused, GuardError):
        return None


def examples(target: Target, budget: Budget) -> list[Tensor]:
    """Latents of a picture of the concept for each ask, [1, channels, h, w]."""
    return [target.denoiser.latents(target.example(Ask("", i))[None]) for i in range(budget.asks)]


def learn(
    attack: Attack, clean: Sequence[Tensor], learnt: Sequence[Tensor], optimiser: torch.optim.Optimizer,
    said: Callable[[int], tuple[str, Tensor | None]],
) -> None:  # fmt: skip
    """Steps towards what the guarded model would say if it drew from these pictures, one of them in each. said: the
    text of a step, and its input vectors where they are not its own. A step that the policy lets nothing through in
    changes nothing."""
    target, random = attack.target, attack.random
    for step in range(attack.budget.iterations * attack.budget.asks):
        text, vectors = said(step)
        which = int(torch.randint(len(clean), (1,), generator=random))
        loss = loss_at(target, text, anywhere(target, clean[which], random), vectors)
        target.tick()
        if loss is None or not loss.requires_grad:
            continue
        for one, slope in zip(learnt, torch.autograd.grad(loss, list(learnt), allow_unused=True)):
            one.grad = slope
        optimiser.step()


def loss_of(target: Target, text: str, places: list[Place]) -> float:
    """The same of a text, over several places; infinite where the policy lets nothing through."""
    with torch.no_grad():
        found = [loss_at(target, text, at) for at in places]
    return sum(float("inf") if one is None else float(one.detach()) for one in found) / len(found)
