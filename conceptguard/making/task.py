"""What a maker is asked, and what it answers: everything between the two is the method's own.

concept -> ``Task`` -> ``Method.learn`` -> ``Learned`` -> gate measured -> ``Artifact``; see ``Method.make``
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from pydantic import BaseModel

from ..concept import Concept, check_preserve
from .base import weights_mark
from .pieces import Pieces, reads
from .progress import Tick, progress_bar
from .snapshot import Snapshot
from .templates import check_templates, filled, instead

if TYPE_CHECKING:
    from torch import Tensor

    from ..host import Host

Report = Callable[[int, float], None]


class Opens(NamedTuple):
    """What a gate by prompt is measured on: texts that must open it, and texts that must leave it shut, beside ordinary
    captions."""

    own: Sequence[str]
    kept: Sequence[str]


@dataclass
class Task:
    """A concept to be made an artifact of, for one host.

    several: the concepts that it consists of, where one artifact is made of many; see ``each``
    host: where the model is asked; None where a method's artifacts serve every model and nobody named one
    preserve: what must stay; settings: of the method's ``MakeSettings``
    folder: where the artifact will be; label: for progress bars and errors
    reports: told (step, loss) after every step; preview: so many steps lie between pictures, see ``previews``, 0: none
    started: by ``time.perf_counter``; anyway: of a concept that the model does not know, see ``check_known``
    """

    host: Host | Any
    concept: Concept
    preserve: Sequence[str]
    settings: Any
    seed: int
    folder: Path
    label: str
    shown: bool = True
    reports: Sequence[Report] = ()
    started: float = field(default_factory=time.perf_counter)
    several: Sequence[Concept] = ()
    preview: int = 0
    anyway: bool = False

    @property
    def each(self) -> Sequence[Concept]:
        """The concepts one by one."""
        return self.several or [self.concept]

    def times(self, count: int) -> int:
        """So many for each concept: five at once are trained five times as long as one."""
        return count * len(self.each)

    def check(self, *templates: Sequence[str]) -> None:
        """Raises PolicyError when something to keep names the concept, or a template has no place for it."""
        for concept in self.each:
            check_preserve(concept, self.preserve)
        for some in templates:
            check_templates(some)

    def own(self, templates: Sequence[str]) -> list[str]:
        """The concept's prompts in every template, each text once."""
        return filled(templates, self.concept.prompts)

    def instead(self, templates: Sequence[str], without: str = "") -> list[str]:
        """For each text of ``own``, in its order, what is to appear there: the same template with the replacement of
        the concept that it is about, or with ``without`` where that has none."""
        texts: dict[str, str] = {}
        for one in self.each:
            for text, other in zip(
                filled(templates, one.prompts), instead(templates, one.prompts, one.replacement or without)
            ):
                texts.setdefault(text, other)
        return list(texts.values())

    def kept(self, templates: Sequence[str]) -> list[str]:
        """What must stay in every template, each text once."""
        return filled(templates, self.preserve)

    @property
    def anchor(self) -> str:
        """What the concept is taken for by methods that need something: its replacement; without one the first thing
        that must stay, which the model knows; without any, the empty prompt."""
        return self.concept.replacement or next(iter(self.preserve), "")

    def bar(self, total: int, what: str = "") -> AbstractContextManager[Tick]:
        """A progress bar on standard error: with task.bar(n) as tick: tick(step, loss), or tick(step)."""
        return progress_bar(f"{self.label}{what}", total, self.shown)

    def snapshot(self, inputs: Mapping[str, Any] = MappingProxyType({}), name: str = "training") -> Snapshot:
        """Where an interrupted training is taken up, beside the artifact. inputs: what the result depends on beside the
        task itself."""
        common = {
            "concept": self.concept.model_dump(), "preserve": list(self.preserve), "seed": self.seed,
            "settings": self.settings.model_dump(), "weights": weights_mark(self.host),
            **({"concepts": [one.model_dump() for one in self.several]} if self.several else {}),
        }  # fmt: skip
        return Snapshot(self.folder.parent / f".{self.folder.name}.{name}", {**common, **inputs})

    @cached_property
    def pieces(self) -> Pieces:
        """What was read of each concept of several, beside the artifact."""
        inputs = {"settings": self.settings.model_dump(), "weights": weights_mark(self.host), "reads": reads(self.host)}
        return Pieces(self.folder.parent / f".{self.folder.name}.pieces", inputs)

    def made(self, **more: Any) -> dict[str, Any]:
        """How the artifact was made, for its manifest: settings, what was kept, and more."""
        if self.several:
            more["concepts"] = [concept.model_dump() for concept in self.several]
        return {"settings": self.settings.model_dump(), "preserve": list(self.preserve), **more}


@dataclass
class Learned:
    """What a method made of a task.

    tensors: by name; made: how, for the manifest, see ``Task.made``
    opens: None for a guard that prompts do not open
    settings: of the guard at run time, where a policy says nothing else
    filename: default ``<concept>.safetensors``; metadata: of that file
    encoders: it acts in text encoders alone, so that any model with the same ones takes it
    also: prompts that evoke the concept and that nobody named; they are the artifact's as well
    """

    tensors: Mapping[str, Tensor]
    made: Mapping[str, Any]
    opens: Opens | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    filename: str | None = None
    metadata: Mapping[str, str] | None = None
    encoders: bool = False
    also: Sequence[str] = ()


class Maker(Protocol):
    """A method that makes artifacts, as making asks it; see ``Method``."""

    name: ClassVar[str]
    family: ClassVar[str | None]
    MakeSettings: ClassVar[type[BaseModel]]

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """The method's own part."""
