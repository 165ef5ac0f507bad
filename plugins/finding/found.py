"""What every finder does alike: crops in, directions extracted, weighed by what decides, named, the most important
shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.finder import Found, FoundConcept, Search
from conceptguard.finding.checks import present
from conceptguard.finding.crops import Crops, look
from conceptguard.finding.decides import Decides, decides
from conceptguard.finding.naming import Names, distinct, nearest_crops
from conceptguard.markers import hookimpl
from conceptguard.method import Settings

MOST = 4096  # concepts that are looked for: Sobol sequences of two each end at 21,201
MOST_SHOWN = 32  # what a person can look through (Ramaswamy et al., 2023, "Overlooked factors")


class Looking(Settings):
    """How pictures are looked through, and what is shown.

    concepts: how many are looked for
    shown: how many are shown, the most important ones; 32 is what a person can look through
    crop: side of a crop as a share of the picture's; stride: from one crop to the next, as a share of a crop
    """

    concepts: int = Field(default=32, ge=1, le=MOST)
    shown: int = Field(default=MOST_SHOWN, ge=1, le=MOST_SHOWN)
    crop: float = Field(default=0.375, gt=0.05, le=1)
    stride: float = Field(default=0.34, gt=0.05, le=1)


class PictureFinder:
    """A finder that looks through pictures. Subclass, set ``name``, and give ``find``."""

    looks_at: ClassVar[str] = "pictures"
    FindSettings: ClassVar[Any] = Looking

    @hookimpl
    @classmethod
    def finders(cls) -> list[Any]:
        """A class named in an entry point offers itself."""
        return [cls]


@dataclass(frozen=True)
class Seen:
    """A search's pictures as finders see them. rows: all crops, [n * places, width]; whole: of each picture the mean of
    its crops, [n, width]"""

    search: Search
    crops: Crops
    rows: Tensor
    whole: Tensor
    decides: Decides
    names: Names

    @property
    def n(self) -> int:
        """How many pictures."""
        return len(self.whole)

    def by_class(self) -> tuple[list[str], Tensor]:
        """Names of the classes that are told apart, and which of them each picture is of, [n]."""
        assert self.search.pictures is not None
        names = list(self.decides.classes)
        return names, torch.tensor([names.index(one) for one in self.search.pictures.classes])

    def by_picture(self, amounts: Tensor) -> Tensor:
        """[n, places, k] of amounts of each crop."""
        return amounts.unflatten(0, (self.n, -1))


def see(search: Search) -> Seen:
    """Read the pictures of a search. Raises PolicyError where there are none, or nothing can be told of them."""
    if search.pictures is None or search.encoder is None:
        raise PolicyError(f"{search.label} looks through pictures: give --pictures FOLDER, or --model with --draw")
    s = search.settings
    with search.bar(len(search.pictures), ", reading crops") as tick:
        crops = look(search.pictures, search.encoder, s.crop, s.stride, tick)
    rows, whole = crops.rows.flatten(0, 1), crops.rows.mean(1)
    texts = search.encoder.texts(search.words) if search.words else rows[:0]
    names = Names(search.words, texts, rows.mean(0))
    return Seen(search, crops, rows, whole, decides(whole, search.pictures.classes), names)


def parts(seen: Seen, amounts: Tensor, directions: Tensor) -> Tensor:
    """What each concept adds to the decision about each picture, [n, k]: amount in the mean crop, times how far its
    direction goes the way that the decision goes."""
    mean = seen.by_picture(amounts).mean(1)
    return mean * (seen.decides.directions @ directions.T)


def shares(seen: Seen, found: Tensor) -> tuple[Tensor, list[str]]:
    """One share for each concept of what was found for each picture [n, k], and the class in which it is largest."""
    pictures = seen.search.pictures
    assert pictures is not None
    if not seen.decides.classes:
        mean = found.clamp(min=0).mean(0)
        return mean / mean.sum().clamp(min=1e-12), [""] * found.shape[1]
    rows = [[i for i, one in enumerate(pictures.classes) if one == name] for name in seen.decides.classes]
    each = torch.stack([found[some].clamp(min=0).mean(0) for some in rows])
    best = each.max(0)
    total = best.values.sum().clamp(min=1e-12)
    return best.values / total, [seen.decides.classes[i] for i in best.indices.tolist()]


def order(seen: Seen, amounts: Tensor, importance: Tensor) -> list[int]:
    """Which are shown, the most important first."""
    there = [j for j in importance.argsort(descending=True).tolist() if float(amounts[:, j].max()) > 1e-6]
    return there[: seen.search.settings.shown]


def concepts(
    seen: Seen, amounts: Tensor, importance: Tensor, about: Sequence[str], part_of: Sequence[str] = (),
    words: Sequence[list[tuple[str, float]]] | None = None,
) -> list[FoundConcept]:  # fmt: skip
    """Named, the most important first, no more than are to be shown. amounts: of each crop, [n * places, k].

    One that is in no crop is left out.
    """
    there = order(seen, amounts, importance)
    near = [nearest_crops(amounts[:, j], seen.rows) for j in there]
    named = [words[j] if words else seen.names.of(row) for j, row in zip(there, near)]
    found = []
    for j, row, name, some in zip(there, near, distinct(named), named):
        mine = seen.by_picture(amounts[:, j])
        way = F.normalize(row - seen.names.centre, dim=0)
        part = part_of[j] if part_of else ""
        one = FoundConcept(name, some, mine.amax(1), seen.crops.maps(mine), way, float(importance[j]), about[j], part)
        found.append(one)
    return found


def told(seen: Seen, found: Sequence[FoundConcept], how: str, **figures: Any) -> Found:
    """Rows for a table, in the order of concepts."""
    rows = [
        {"concept": one.name, "importance": round(one.importance, 4), "about": one.about, "part_of": one.part_of,
         "pictures": int(present(one).sum()),
         "words": ", ".join(word for word, _ in one.words[:3])}
        for one in found
    ]  # fmt: skip
    assert seen.search.pictures is not None
    many = f"{seen.n} of {seen.search.pictures.of} pictures" if seen.search.pictures.of else f"{seen.n} pictures"
    text = f"{len(found)} concepts in {many}, {how}"
    return Found(rows, text, {"pictures": seen.n, "crops": len(seen.rows), **figures}, found)
