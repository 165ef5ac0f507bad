"""CRAFT (Fel et al., 2023): concepts by recursive factorisation of what a network says of crops, Sobol importance, and
maps of where each concept is.

The recursion of the paper stands in no published code. Where the crops of a concept are unlike each other, those in
which it is strongest are factorised again, on what the tower holds before its end.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from conceptguard.finder import Found, Search
from conceptguard.finding.crops import AT_ONCE, cut
from conceptguard.finding.naming import nearest_crops

from .dictionaries import SWEEPS, halves, nmf
from .found import MOST, Looking, PictureFinder, Seen, concepts, parts, see, shares, told
from .importance import sobol
from .lens import extract, reconstruction_error

OWN = 0.1  # share of a concept's crops, the strongest ones, that are its own
FEWEST = 12  # of its own crops that can be told apart


class CraftFindSettings(Looking):
    """recurse: how many concepts, those whose crops are least alike, are taken apart again; 0 is no recursion
    before: how many layers before the tower's end they are taken apart at
    pieces: into how many
    """

    concepts: int = Field(default=28, ge=1, le=MOST)  # with the pieces of two of them as many as are shown
    recurse: int = Field(default=2, ge=0)
    before: int = Field(default=1, ge=1)
    pieces: int = Field(default=2, ge=2)


class Craft(PictureFinder):
    """Pictures: names what they have in common and takes mixed concepts apart, with importance and places."""

    name: ClassVar[str] = "craft"
    FindSettings: ClassVar[Any] = CraftFindSettings

    @classmethod
    def find(cls, search: Search) -> Found:
        """Raises PolicyError for pictures of which nothing can be told, or a layer that the tower does not have."""
        s = search.settings
        seen = see(search)
        with search.bar(SWEEPS, ", factorising") as tick:
            amounts, directions = extract(seen, "nmf", s.concepts, tick)
        error = reconstruction_error(seen.rows, amounts, directions)
        importance, about = shares(seen, sobol(parts(seen, amounts, directions), search.seed))
        part_of = [""] * len(importance)
        for j in _mixed(seen, amounts)[: s.recurse]:
            pieces = _apart(seen, amounts[:, j], s)
            share = pieces.sum(0) / pieces.sum().clamp(min=1e-12)
            amounts = torch.cat([amounts, pieces], 1)
            importance = torch.cat([importance, importance[j] * share])
            about, part_of = (
                [*about, *[about[j]] * len(share)],
                [*part_of, *[_called(seen, amounts[:, j])] * len(share)],
            )
        found = concepts(seen, amounts, importance, about, part_of)
        return told(seen, found, "by factorisation, Sobol indices and recursion", reconstruction_error=error)


def _called(seen: Seen, amounts: Tensor) -> str:
    """A concept by itself."""
    words = seen.names.of(nearest_crops(amounts, seen.rows))
    return words[0][0] if words else "another concept"


def _own(amounts: Tensor) -> Tensor:
    """Places of a concept's own crops."""
    return amounts.topk(min(len(amounts), max(FEWEST, round(OWN * int((amounts > 0).sum()))))).indices


def _mixed(seen: Seen, amounts: Tensor) -> list[int]:
    """Concepts whose own crops are less alike than half of all concepts' are, the least first."""
    likeness = torch.stack([F.normalize(seen.rows[_own(column)], dim=1).mean(0).norm() for column in amounts.T])
    return [j for j in likeness.argsort().tolist() if likeness[j] < likeness.median()]


def _apart(seen: Seen, amounts: Tensor, settings: Any) -> Tensor:
    """A concept's crops, factorised by themselves before the tower's end: amounts of each piece, [crops, pieces].

    A piece is somewhere only where the whole is.
    """
    assert seen.search.pictures is not None and seen.search.encoder is not None
    mine = _own(amounts)
    pixels, places = seen.search.pictures.pixels, len(seen.crops.boxes)
    states = []
    for some in mine.split(AT_ONCE * places):
        crops = [cut(pixels[i // places, None], seen.crops.boxes[i % places, None]) for i in some.tolist()]
        states.append(seen.search.encoder.states(torch.cat(crops).float() / 255, settings.before))
    rows = torch.cat(states)
    given = halves(rows - rows.mean(0))
    random = torch.Generator().manual_seed(seen.search.seed)
    made = nmf(given, settings.pieces, random)
    found = made.encode(given)
    found = found / found.sum(1, keepdim=True).clamp(min=1e-9) * amounts[mine, None]
    return torch.zeros(len(amounts), found.shape[1]).index_copy_(0, mine, found)
