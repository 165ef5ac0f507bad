"""DAMP: at every layer the directions that tell what is to be forgotten from the rest are projected out of the weights.

W_l ← W_l (I − γ_l D_l A_l)        b_l ← b_l + γ_l W_l D_l A_l μ_l        A_l = (D_lᵀ S_l D_l)⁻¹ D_lᵀ S_l

D_l: an orthonormal basis of μ_f − μ_l for every forgotten class, μ being means of what layer l reads of its examples
and of those to retain (of a convolution, over its places). γ_l: how well a forgotten class stands apart there, which
grows with depth: (2·AUC − 1)^p of its examples against the rest, along their own direction. Solved from one pass.

Hatami, Aalishah and Monosov, "Class Unlearning via Depth-Aware Removal of Forget-Specific Directions" (arXiv
2604.15166). They project at right angles, A = Dᵀ. Along the same directions what is retained moves least if S is the
inverse of its covariance: Belrose et al., "LEACE: Perfect Linear Concept Erasure in Closed Form", NeurIPS 2023. The
second line is ours: without it what is retained moves as well wherever its own mean has a part in D.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from .forgetting import ForgetSettings, Forgetting
from .lesson import Lesson


class DAMPMakeSettings(ForgetSettings):
    """How much is projected out.

    power: of how well a class stands apart at a layer; more spares the early layers more
    scale: of all projections together
    projection: "least", by which what is retained moves least, or the paper's, "orthogonal"
    ridge: of "least", what is added to variances of what is retained, as a share of their mean
    sample: how many examples, of each class its share, tell what is retained; 0: all of them
    """

    power: float = Field(default=32.0, ge=0)
    scale: float = Field(default=1.0, gt=0, le=2)
    projection: Literal["least", "orthogonal"] = "least"
    ridge: float = Field(default=0.1, gt=0)
    sample: int = Field(default=256, ge=0)


class DAMP(Forgetting):
    """Modules: directions that tell what is to be forgotten are projected out of every layer; solved in a second."""

    name = "damp"
    MakeSettings = DAMPMakeSettings

    @classmethod
    def measure(cls, lesson: Lesson, settings: Any) -> dict[str, Tensor]:
        """What layers read of a sample."""
        places = lesson.spread(settings.sample)
        return lesson.kept("read", places, lambda: means_read(lesson, _layers(lesson.net), places))

    @classmethod
    def forget(cls, lesson: Lesson, settings: Any) -> dict[str, Any]:
        """As above, in the copy."""
        layers = _layers(lesson.net)
        lesson.demand_whole_classes("it takes whole classes out, and some of theirs are to be retained")
        read, stays = cls.measure(lesson, settings), torch.isin(lesson.spread(settings.sample), lesson.retain)
        gone = means_read(lesson, layers, lesson.forget)
        shares: dict[str, float] = {}
        with lesson.task.bar(len(layers)) as tick, torch.no_grad():
            for number, (name, layer) in enumerate(layers.items()):
                if isinstance(layer, nn.Conv2d) and layer.groups != 1:
                    continue
                kept = read[name][stays]
                basis, middle, apart = directions(gone[name], kept, lesson.labels[lesson.forget])
                gamma = settings.scale * apart**settings.power
                shares[name] = round(gamma, 4)
                least = settings.projection == "least"
                told = parts(basis, kept - middle, settings.ridge) if least else basis.T
                project(layer, basis, told, middle, gamma)
                tick(number, gamma)
        return {"gamma": shares}


def project(layer: nn.Linear | nn.Conv2d, basis: Tensor, told: Tensor, middle: Tensor, gamma: float) -> None:
    """The formula's first line, in place. basis: D [in, k], told: A [k, in], middle: μ [in]"""
    weight = layer.weight.flatten(2).sum(2) if layer.weight.ndim == 4 else layer.weight
    constant = gamma * weight @ (basis @ (told @ middle))
    along = torch.einsum("oi...,ik->ok...", layer.weight, basis)
    layer.weight -= gamma * torch.einsum("ok...,ki->oi...", along, told)
    if layer.bias is not None:
        layer.bias += constant


def parts(basis: Tensor, away: Tensor, ridge: float) -> Tensor:
    """A above, [k, in]: how much of each direction, basis [in, k], is in something, told so that of what is retained,
    away [n, in] from its mean, as little as can be is."""
    covariance = away.T @ away / len(away)
    scale = covariance.diagonal().mean().clamp_min(1e-12)
    covariance = covariance / scale + ridge * torch.eye(len(covariance)).to(covariance)
    told = torch.linalg.solve(covariance, basis).T
    return torch.linalg.solve(told @ basis, told)


def _layers(net: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    return {name: one for name, one in net.named_modules() if isinstance(one, (nn.Linear, nn.Conv2d))}


@torch.no_grad()
def means_read(lesson: Lesson, layers: Mapping[str, nn.Module], places: Tensor) -> dict[str, Tensor]:
    """What each layer reads of some examples, a mean over its places or tokens: [n, in]."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    handles = []
    for name, layer in layers.items():

        def read(module: Any, given: tuple[Tensor, ...], name: str = name) -> None:
            x = given[0]
            found[name].append(x.mean((2, 3)) if x.ndim == 4 else x.flatten(1, -2).mean(1) if x.ndim > 2 else x)

        handles.append(layer.register_forward_pre_hook(read))
    try:
        for part in lesson.inputs[places].split(256):
            lesson.net(part.contiguous(memory_format=torch.channels_last) if part.ndim == 4 else part)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


def directions(gone: Tensor, kept: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, float]:
    """An orthonormal basis [in, k], the middle of what is retained [in], and how well classes stand apart, 0 to 1.

    gone, kept [n, in]: of what is to be forgotten, whose classes are ``labels``, and of what is retained"""
    middle = kept.mean(0)
    found, apart = [], []
    for label in labels.unique().tolist():
        own = gone[labels == label]
        way = own.mean(0) - middle
        found.append(way)
        apart.append(max(0.0, 2 * auc(own @ way, kept @ way) - 1))
    basis, values, _ = torch.linalg.svd(torch.stack(found, 1), full_matrices=False)
    return basis[:, values > 1e-4 * values[0]], middle, sum(apart) / len(apart)


def auc(higher: Tensor, lower: Tensor) -> float:
    """How probably one of ``higher`` is above one of ``lower``."""
    return float((higher[:, None] > lower[None]).double().mean())
