"""Finders that know nothing of concepts, to stand beside those that should: a bar that they pass is worth nothing."""

from __future__ import annotations

from typing import ClassVar

from .found import Looking
from .lens import Lens, LensFindSettings


class _PcaSettings(LensFindSettings):
    """As of lens."""

    extraction: str = "pca"  # type: ignore[assignment]


class _RandomSettings(LensFindSettings):
    """As of lens."""

    extraction: str = "random"  # type: ignore[assignment]


class PcaFinder(Lens):
    """Pictures: a control, principal axes: what varies most is not yet a concept."""

    name: ClassVar[str] = "pca"
    FindSettings: ClassVar[type[Looking]] = _PcaSettings


class RandomFinder(Lens):
    """Pictures: a control, directions at random, weighed and named as a finder's are."""

    name: ClassVar[str] = "random_directions"
    FindSettings: ClassVar[type[Looking]] = _RandomSettings
