"""Neurons as terms beside the layer that they write through: one unit row and one column each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from conceptguard.runtime.lowrank import Factors

from .blocks import Block, weight_of


class Neuron(NamedTuple):
    """Its block's number, and its place there: a row of the first layer, a column of the last."""

    layer: int
    place: int


def places(neurons: Sequence[Neuron]) -> dict[int, list[int]]:
    """Block -> places in it, both ascending."""
    found: dict[int, list[int]] = {}
    for layer, place in sorted(set(neurons)):
        found.setdefault(layer, []).append(place)
    return found


def removed(host: Any, blocks: Sequence[Block], neurons: Sequence[Neuron]) -> dict[str, Factors]:
    """Terms that take away what neurons write: y - v_j h_j, with v_j their column and h_j what they hold."""
    by_number = {block.number: block for block in blocks}
    found = {}
    for number, own in places(neurons).items():
        weight = weight_of(host, by_number[number].down)
        found[by_number[number].down] = Factors(units(own, weight.shape[1]), -weight[:, own].cpu())
    return found


def added(blocks: Sequence[Block], noise: Mapping[Neuron, Tensor], widths: Mapping[int, int]) -> dict[str, Factors]:
    """Terms that add to what neurons write. noise: [out] of each; widths: neurons of each block."""
    found = {}
    for block in blocks:
        own = places(list(noise)).get(block.number)
        if own:
            columns = torch.stack([noise[Neuron(block.number, place)] for place in own], 1)
            found[block.down] = Factors(units(own, widths[block.number]), columns)
    return found


def units(own: Sequence[int], width: int) -> Tensor:
    """One row for each place with a one there, [places, width]."""
    rows = torch.zeros(len(own), width)
    rows[range(len(own)), list(own)] = 1.0
    return rows
