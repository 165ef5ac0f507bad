"""What a finder is asked, and what it answers: where a concept is in a model, or which concepts a model has.

A method that has a ``find`` of its own offers itself; any other class with these names comes in by the same hook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel

from .making.progress import progress_bar

if TYPE_CHECKING:
    from .concept import Concept
    from .host import Host
    from .making.task import Report


@dataclass
class Search:
    """host: the model that is looked into; concept: what for, None where nobody named one; settings: of the finder's
    ``FindSettings``; label: for progress bars and errors; shown: whether there are bars"""

    host: Host | Any
    concept: Concept | None
    settings: Any
    seed: int = 0
    label: str = "finding"
    shown: bool = True

    def bar(self, total: int, what: str = "") -> AbstractContextManager[Report]:
        """A progress bar on standard error: with search.bar(n) as tick: tick(step, value)."""
        return progress_bar(f"{self.label}{what}", total, self.shown)


@dataclass
class Found:
    """rows: flat, the likeliest first; told: what they amount to, a line for people; figures: the same as numbers."""

    rows: Sequence[Mapping[str, Any]]
    told: str = ""
    figures: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


class Finder(Protocol):
    """A finder, as ``conceptguard find`` asks it."""

    name: ClassVar[str]
    FindSettings: ClassVar[type[BaseModel]]

    @classmethod
    def find(cls, search: Search) -> Found:
        """Look. Raises PolicyError for what cannot be looked for, BaseMismatch for a model that it cannot read."""
