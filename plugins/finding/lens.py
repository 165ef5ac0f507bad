"""One frame for finders: any extraction beside any importance (Fel et al., 2023)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from conceptguard.finder import Found, FoundConcept, Search
from conceptguard.finding.decides import rightly
from conceptguard.finding.strategies import strategies

from .dictionaries import EXTRACTIONS, SWEEPS, Dictionary, halves, whole
from .found import Looking, PictureFinder, Seen, concepts, order, parts, see, shares, told
from .importance import IMPORTANCES, sobol

SIGNED = ("kmeans", "pca", "random")


class LensFindSettings(Looking):
    """extraction: nmf, kmeans, pca or random; importance: sobol, left_out or gradient_input"""

    extraction: Literal["nmf", "kmeans", "pca", "random"] = "nmf"
    importance: Literal["sobol", "left_out", "gradient_input"] = "sobol"


class Lens(PictureFinder):
    """Pictures: names what they have in common, by an extraction and an importance of your choice."""

    name: ClassVar[str] = "lens"
    FindSettings: ClassVar[Any] = LensFindSettings

    @classmethod
    def find(cls, search: Search) -> Found:
        """Raises PolicyError for pictures of which nothing can be told."""
        s = search.settings
        seen = see(search)
        amounts, directions = extract(seen, s.extraction, s.concepts)
        added = parts(seen, amounts, directions)
        each = IMPORTANCES[s.importance](added, search.seed)
        importance, about = shares(seen, each)
        found = concepts(seen, amounts, importance, about)
        error = reconstruction_error(seen.rows, amounts, directions)
        answer = told(seen, found, f"by {s.extraction} and {s.importance}", reconstruction_error=error)
        return answer if not seen.decides.classes else decided(answer, seen, each[:, order(seen, amounts, importance)])


def decided(found: Found, seen: Seen, each: Tensor) -> Found:
    """With the strategic cluster graph: which concept decides which pictures. each: importance of those that are shown
    for each picture, [n, k]"""
    assert seen.search.pictures is not None
    right = rightly(seen.whole, seen.search.pictures.classes)
    graph = strategies([one.name for one in found.concepts], each, right)
    rows = []
    for row in found.rows:
        mine = graph.of(row["concept"])
        rows.append({**row, "decides": round(mine.prevalence, 4) if mine else 0.0,
                     "rightly": round(mine.reliability, 4) if mine else None})  # fmt: skip
    return replace(found, rows=rows, strategies=graph)


def extract(seen: Seen, how: str, k: int, tick: Callable[[int, float], None] | None = None) -> tuple[Tensor, Tensor]:
    """Amounts [crops, k] and directions [k, width] in the encoder's space."""
    random = torch.Generator().manual_seed(seen.search.seed)
    signed = how in SIGNED
    rows = seen.rows - seen.rows.mean(0)
    given = rows if signed else halves(rows)
    made: Dictionary = EXTRACTIONS[how](given, k, random, *([tick] if tick and how == "nmf" else []))
    return made.encode(given), made.directions if signed else whole(made.directions)


def factors(search: Search, seen: Seen, k: int) -> list[FoundConcept]:
    """Concepts of a factorisation with their Sobol indices, for finders that go on from there."""
    with search.bar(SWEEPS, ", factorising") as tick:
        amounts, directions = extract(seen, "nmf", k, tick)
    importance, about = shares(seen, sobol(parts(seen, amounts, directions), search.seed))
    return concepts(seen, amounts, importance, about)


def reconstruction_error(rows: Tensor, amounts: Tensor, directions: Tensor) -> float:
    """What is left of the rows' distances from their mean, relative, 0 to 1 and above."""
    moved = rows - rows.mean(0)
    return round(float((moved - amounts @ directions).norm() / moved.norm().clamp(min=1e-12)), 4)
