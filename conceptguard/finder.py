"""What a finder is asked, and what it answers: where a concept is in a model, or which concepts pictures show.

A method that has a ``find`` of its own offers itself; any other class with these names comes in by the same hook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel

from .making.progress import Tick, progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from .concept import Concept
    from .host import Host
    from .protocols import PictureEncoder


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures to look through. pixels: uint8 [n, 3, side, side]; names: of each, for people; classes: what each was
    sorted under, all "" where nobody sorted them; of: how many there are, where these are some of them"""

    pixels: Tensor
    names: Sequence[str]
    classes: Sequence[str]
    of: int = 0

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sorted(self) -> bool:
        """Whether somebody sorted them."""
        return any(self.classes)


@dataclass
class Search:
    """host: the model that is looked into; concept: what for, None where nobody named one; settings: of the finder's
    ``FindSettings``; label: for progress bars and errors; shown: whether there are bars

    pictures, encoder, words: of a finder that looks through pictures, what reads them, and what they may be called"""

    host: Host | Any
    concept: Concept | None
    settings: Any
    seed: int = 0
    label: str = "finding"
    shown: bool = True
    pictures: PictureSet | None = None
    encoder: PictureEncoder | None = None
    words: Sequence[str] = ()

    def bar(self, total: int, what: str = "", told: str = "loss") -> AbstractContextManager[Tick]:
        """A progress bar on standard error: with search.bar(n) as tick: tick(step, value), or tick(step). told: what
        the values are."""
        return progress_bar(f"{self.label}{what}", total, self.shown, told)


@dataclass
class FoundConcept:
    """Something that pictures have in common.

    name: the words nearest to it, or a number; words: those and the next ones, each with its cosine
    scores: how much of it is in each picture, [n]; maps: where, [n, cells, cells], from the left upper corner
    direction: the way to it in the encoder's space, from the mean of all crops, [width], of length 1
    importance: its share of what decides, 0 to 1; about: the class that it speaks for, "" where there are none
    part_of: the concept that it is a part of, "" for most
    evoked: by which words, where more than the first of ``words`` are known to
    token: what was learnt for it, input vectors of the model's text encoder, [vectors, hidden]
    """

    name: str
    words: Sequence[tuple[str, float]]
    scores: Tensor
    maps: Tensor
    direction: Tensor
    importance: float
    about: str = ""
    part_of: str = ""
    evoked: Sequence[str] = ()
    token: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Strategy:
    """What one concept decides. concept: its name; pictures: which, rows of the set; prevalence: their share of all;
    reliability: the share of them that are decided rightly; at: where they lie on average, each 0 to 1"""

    concept: str
    pictures: Sequence[int]
    prevalence: float
    reliability: float
    at: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Strategies:
    """strategies: the most prevalent first; places: where each picture lies, [n, 2], each 0 to 1"""

    strategies: Sequence[Strategy]
    places: Tensor

    def of(self, concept: str) -> Strategy | None:
        """The one of a concept, None where it decides no picture."""
        return next((one for one in self.strategies if one.concept == concept), None)


@dataclass
class Found:
    """rows: flat, the likeliest first; told: what they amount to, a line for people; figures: the same as numbers;
    concepts: of a finder that looks through pictures, the most important first, as many as there are rows;
    strategies: which of them decides which pictures, where it can say that"""

    rows: Sequence[Mapping[str, Any]]
    told: str = ""
    figures: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    concepts: Sequence[FoundConcept] = ()
    strategies: Strategies | None = None


class Finder(Protocol):
    """A finder, as ``conceptguard find`` asks it."""

    name: ClassVar[str]
    FindSettings: ClassVar[type[BaseModel]]
    looks_at: ClassVar[str]  # "pictures", "picture", which is one through a model, or "model", as without it
    judged: ClassVar[bool]  # whether it is to find all that pictures show, as `eval --suite finding` asks; by default
    compares: ClassVar[bool]  # whether it is to find what one class shows more of than the other alone; by default not

    @classmethod
    def find(cls, search: Search) -> Found:
        """Look. Raises PolicyError for what cannot be looked for, BaseMismatch for a model that it cannot read."""
