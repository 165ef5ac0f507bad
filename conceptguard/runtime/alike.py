"""Terms out of files that are written alike: where a layer's factors lie is found once, and many are stacked at once.

A policy may name a thousand membranes of one size. Their files have the same tensors in the same places, so that a view
of each of some hundred thousand tensors, which takes longer than reading the files does, is made only where one is
asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .lowrank import Factors


class Flat(Mapping[str, Tensor]):
    """The tensors of one file as views into one piece, made when they are asked for.

    flat: all elements, [elements]; slots: by name ``shape``, and ``begin`` and ``end`` in bytes. Files that are written
    alike share ``slots``
    """

    def __init__(self, flat: Tensor, slots: Mapping[str, Any]):
        self.flat, self.slots = flat, slots

    def __getitem__(self, name: str) -> Tensor:
        slot = self.slots[name]
        width = self.flat.element_size()
        return self.flat[slot.begin // width : slot.end // width].view(slot.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.slots)

    def __len__(self) -> int:
        return len(self.slots)


class Place(NamedTuple):
    """Where one layer's term lies in a file: first and last element of each factor, its shape, and alpha's place."""

    down: tuple[int, int]
    up: tuple[int, int]
    down_shape: tuple[int, ...]
    up_shape: tuple[int, ...]
    alpha: int

    @property
    def rank(self) -> int:
        """Of the term."""
        return self.down_shape[0]


class Layout(dict[str, Place]):
    """The places of all layers of a file, by canonical name. ``alphas`` are the places of their alphas, ``ranks`` their
    ranks, in the same order: [layers] each."""

    def __init__(self, places: Mapping[str, Place]):
        super().__init__(places)
        self.alphas = torch.tensor([place.alpha for place in places.values()])
        self.ranks = torch.tensor([place.rank for place in places.values()], dtype=torch.float64)


class Alike(Mapping[str, Factors]):
    """One file's terms by canonical layer name, read from its one piece where they are asked for."""

    def __init__(self, layout: Layout, flat: Tensor):
        self.layout, self.flat = layout, flat

    def __getitem__(self, name: str) -> Factors:
        place = self.layout[name]
        down, up = (self.flat[slice(*which)] for which in (place.down, place.up))
        return Factors(down.view(place.down_shape), up.view(place.up_shape), float(self.flat[place.alpha]) / place.rank)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout)

    def __len__(self) -> int:
        return len(self.layout)


class Stack(NamedTuple):
    """One layer's terms of several guards. down: [guards * rank, in(, kh, kw)]; up: [out, guards * rank] without its
    scales, which are [guards * rank], or None where each is 1. Of rank 1 both are views of what the files hold."""

    guards: Sequence[int]
    rank: int
    down: Tensor
    up: Tensor
    scales: Tensor | None


def stacked(found: Mapping[int, Alike]) -> Iterator[tuple[str, Stack]]:
    """Terms that share one layout, by guard, as one stack a layer. The files' elements are held once, in one piece
    that all of them share afterwards."""
    guards, files = list(found), list(found.values())
    layout = files[0].layout
    every = files[0].flat.new_empty(len(files), len(files[0].flat))
    for one, row in zip(files, every):
        one.flat = row.copy_(one.flat)
    scales = (every[:, layout.alphas].double() / layout.ranks).float()  # [files, layers]
    for (name, place), scale in zip(layout.items(), scales.T):
        rank = place.rank
        down = every[:, slice(*place.down)].reshape(len(files) * rank, *place.down_shape[1:])
        up = every[:, slice(*place.up)].view(len(files), -1, rank).transpose(0, 1).flatten(1)
        plain = bool((scale == 1).all())
        yield name, Stack(guards, rank, down, up, None if plain else scale.repeat_interleave(rank))
