"""Trains the autoencoder on what a model sees of all pictures, and chooses the features of a concept's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.making.task import Learned
from conceptguard.method import Settings

from ...finding.sae import train
from ..seen.pictures import pictures_of

if TYPE_CHECKING:
    from conceptguard.making.task import Task

_LOOKED_AT = 60_000  # states that the autoencoder is trained on, whatever pictures there are


class SAUCEMakeSettings(Settings):
    """How features are learnt and chosen.

    data: a folder of pictures, sorted into folders by what they show; default: those that the model comes with
    layer: the module whose states are read, by its name; default: the projector's, which the text model reads
    atoms: features, in widths of the states
    few: how many are active at one place of a picture
    features: how many are silenced, those that are more active on the concept's pictures than on others by most
    at_random: silence as many of those that are active at all, drawn at random (the control)
    steps: of the autoencoder's training
    """

    data: str | None = None
    layer: str = ""
    atoms: int = Field(default=8, ge=1)
    few: int = Field(default=16, ge=1)
    features: int = Field(default=128, ge=1)
    at_random: bool = False
    steps: int = Field(default=600, ge=1)


def learn_features(task: Task) -> Learned:
    """Raises PolicyError for a concept that no picture shows, BaseMismatch for a layer that is not there, SessionError
    for a model that sees nothing."""
    s, host = task.settings, task.host
    shown = pictures_of(task, s.data)
    sight = host.sight()
    layer = s.layer or sight.projector
    own, rest = (sight.states(some, layer) for some in (shown.own, shown.others))
    width = own.shape[-1]
    if s.few > s.atoms * width or s.features > s.atoms * width:
        raise PolicyError(f"{task.label}: there are {s.atoms * width} features: few and features cannot be more")
    random = torch.Generator().manual_seed(task.seed)
    every = torch.cat([own.flatten(0, 1), rest.flatten(0, 1)])
    rows = every[torch.randperm(len(every), generator=random)[:_LOOKED_AT]]
    with task.bar(s.steps, ", features") as tick:
        model = train(rows, s.atoms * width, s.few, s.steps, random, tick)
    mine, theirs = ((model.codes(some.flatten(0, 1))).mean(0) for some in (own, rest))
    chosen = _at_random(mine + theirs, s.features, random) if s.at_random else (mine - theirs).topk(s.features).indices
    left = rows - model(rows)[1]
    made: dict[str, Any] = task.made(
        seed=task.seed, layer=layer, few=s.few, pictures=len(shown.own), others=len(shown.others),
        unexplained=round(float(left.square().mean() / rows.sub(rows.mean(0)).square().mean()), 4),
        share_of_concept=_share(mine, theirs, chosen),
    )  # fmt: skip
    tensors = {
        "encoder": model.encoder.half(), "bias": model.bias, "middle": model.middle, "chosen": chosen,
        "directions": model.directions()[chosen],
    }  # fmt: skip
    return Learned({name: one.detach().cpu().contiguous() for name, one in tensors.items()}, made)


def _at_random(active: Tensor, n: int, random: torch.Generator) -> Tensor:
    alive = active.nonzero()[:, 0].cpu()
    return alive[torch.randperm(len(alive), generator=random)[:n]]


def _share(mine: Tensor, theirs: Tensor, chosen: Tensor) -> float:
    """How much of what the chosen features hold, over all pictures alike, is on the concept's: .5 is chance."""
    own, other = float(mine[chosen].sum()), float(theirs[chosen].sum())
    return round(own / max(own + other, 1e-12), 4)
