"""Whether concepts are there, look at the right pixels, and count as much as they should, where the truth is known.

After Aysel et al. (2025), "Concept-based explainable artificial intelligence: metrics and benchmarks", and Furby et al.
(2024), "Can we constrain concept bottleneck models to learn semantically meaningful input features?". How the former's
are normalised stands nowhere; ours is beside each. Nothing here needs a model: maps, scores and truths come in, shares
come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TOP = 3  # concepts of a picture that are asked about


class Looked(NamedTuple):
    """inside: share of a map's mass that lies in the mask, mean of the pictures; pointing: share of pictures whose peak
    is a cell with some of it; by_chance: ``inside`` of a map that is the same everywhere, which is the mask's area"""

    inside: float
    pointing: float
    by_chance: float


def looked(maps: Tensor, masks: Tensor) -> Looked:
    """Where a concept's maps [n, cells, cells] lie, of which what is below zero counts nothing, against where it is,
    [n, h, w] of bool; pictures without it are left out. ValueError where that are all."""
    there = masks.flatten(1).any(1)
    if not bool(there.any()):
        raise ValueError("no picture has a place where the concept is")
    where = _small(masks[there], maps.shape[-1])
    mass = maps[there].clamp(min=0).flatten(1)
    share = mass / mass.sum(1, keepdim=True).clamp(min=1e-12)
    peak = where.gather(1, mass.argmax(1, keepdim=True))[:, 0]
    return Looked(float((share * where).sum(1).mean()), float((peak > 0).float().mean()), float(where.mean()))


def _small(masks: Tensor, cells: int) -> Tensor:
    """How much of each cell is in a mask, [n, cells * cells]."""
    return F.interpolate(masks[:, None].float(), (cells, cells), mode="area")[:, 0].flatten(1)


def strongest(scores: Tensor, importance: Tensor, most: int = TOP) -> Tensor:
    """The concepts that a picture is explained by, [n, most]: its scores [n, concepts], each as a share of the most
    that any picture has of it, times importance [concepts]. -1 stands where a picture has no more."""
    relative = scores.clamp(min=0) / scores.amax(0).clamp(min=1e-12)
    best = (relative * importance).topk(min(most, scores.shape[1]), dim=1)
    return torch.where(best.values > 0, best.indices, -1)


def existence(top: Tensor, truths: Tensor) -> float:
    """CEM: of the concepts that pictures are explained by the share that is really there. top: [n, most]; truths:
    [n, concepts] of bool"""
    return _mean(truths, top)


def location(top: Tensor, maps: Sequence[Tensor], masks: Sequence[Tensor]) -> float:
    """CLM: of the same the share whose map peaks where it is. maps, masks: of each concept, [n, cells, cells] and
    [n, h, w]; a concept that is not there peaks nowhere."""
    peaks = []
    for own, where in zip(maps, masks):
        small = _small(where, own.shape[-1])
        peaks.append(small.gather(1, own.flatten(1).argmax(1, keepdim=True))[:, 0] > 0)
    return _mean(torch.stack(peaks, 1), top)


def _mean(right: Tensor, top: Tensor) -> float:
    return float(right.gather(1, top.clamp(min=0))[top >= 0].float().mean()) if bool((top >= 0).any()) else 0.0


def agreement(weights: Tensor, truth: Tensor) -> float:
    """CGIM: the correlation of what concepts say of classes with what they really have to do with them, over all of
    both, each relative to the concept's mean. weights, truth: [classes, concepts]; 0 where one of them says nothing."""
    one, other = (rows - rows.mean(0) for rows in (weights, truth))
    size = float(one.norm() * other.norm())
    return float((one * other).sum()) / size if size > 1e-12 else 0.0
