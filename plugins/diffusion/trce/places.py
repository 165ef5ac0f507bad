"""Where in a text the first stage acts: its begin token, its first end token, its padding, the concept's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from conceptguard.making.templates import through

if TYPE_CHECKING:
    from conceptguard.making.edits import Wording
    from conceptguard.protocols import TextEncoder


class Weights(NamedTuple):
    """Of the begin token, the first end token, the padding, and the concept's own tokens."""

    begin: float = 0.0
    end: float = 1.0
    padding: float = 0.0
    key: float = 0.0


class Place(NamedTuple):
    """A position of a concept's text, the one of the safe text whose place it takes, and its weight."""

    own: int
    guide: int
    weight: float


def places(encoder: TextEncoder, words: Sequence[Wording], length: int, weights: Weights) -> list[list[Place]]:
    """Of every text of ``length`` positions, counted in tokens. What weighs nothing is left out."""
    own, guided = ([len(ids) for ids in encoder.ids(texts)] for texts in _texts(words))
    ends = [len(ids) for ids in encoder.ids([through(w.template, w.prompt) for w in words])]
    sizes = [len(ids) for ids in encoder.ids([w.prompt for w in words])]
    first = int(encoder.begins)
    return [
        _weighed(n + first, m + first, range(end - size + first, end + first), length, weights, encoder.begins)
        for n, m, end, size in zip(own, guided, ends, sizes)
    ]


def words_places(words: Sequence[Wording], length: int, weights: Weights) -> list[list[Place]]:
    """The same counted as the authors' code does, in words, which is wrong for whatever is more than one token; of the
    concept's own words it takes the first."""
    own, guided = ([len(text.split()) for text in texts] for texts in _texts(words))
    return [
        _weighed(n + 1, m + 1, _where(w.own.split(), w.prompt.split())[:1], length, weights, True)
        for w, n, m in zip(words, own, guided)
    ]


def weighed(own: Tensor, guide: Tensor, where: Sequence[Place]) -> tuple[Tensor, Tensor]:
    """Rows to erase and to be guided by [places, d], of a text's states [length, d] and its safe one's, scaled by the
    roots of their weights."""
    root = torch.tensor([place.weight for place in where], dtype=torch.float64, device=own.device).sqrt()[:, None]
    return root * own[[place.own for place in where]], root * guide[[place.guide for place in where]]


def _texts(words: Sequence[Wording]) -> tuple[list[str], list[str]]:
    return [w.own for w in words], [w.guided for w in words]


def _where(text: Sequence[str], part: Sequence[str]) -> range:
    """Positions of the first place at which ``part`` stands in ``text``, behind a begin token."""
    starts = (i for i in range(len(text) - len(part) + 1) if text[i : i + len(part)] == part)
    start = next(starts, None)
    return range(0) if start is None else range(start + 1, start + 1 + len(part))


def _weighed(end: int, guide: int, key: Sequence[int], length: int, weights: Weights, begins: bool) -> list[Place]:
    """end, guide: first end tokens. The last position stands for all padding behind the end token."""
    last = length - 1
    found = [Place(0, 0, weights.begin)] if begins else []
    found += [Place(end, guide, weights.end), Place(last, last, weights.padding * (last - end))]
    found += [Place(i, last, weights.key) for i in key]
    return [place for place in found if place.weight]
