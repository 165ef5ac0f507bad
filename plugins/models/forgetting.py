"""What forgets in a classifier: all of a maker but its formula, and the guard that any of them becomes.

A formula is handed a copy of the model, what it is to forget and what it is to retain, and changes the copy. The
artifact is how the copy differs from the model; attached, that is folded into the model's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel
from torch import Tensor, nn

from conceptguard.concept import Concept
from conceptguard.errors import ArtifactError
from conceptguard.formats.beside import is_beside, read_beside
from conceptguard.making.settings import make_settings
from conceptguard.making.task import Learned, Task
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.folded import places
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import Factors, Terms

from .lesson import Lesson, lesson_of

if TYPE_CHECKING:
    from conceptguard.runtime.lowrank import LayerIndex

_WHOLE = ".whole"


class ForgetSettings(Settings):
    """data: the examples that the model was trained on, a .safetensors file with inputs and labels; by default those
    that an embedded model comes with"""

    data: str | None = None


class Forgetting(Method):
    """A change of a module's tensors that makes it forget. Subclass, forget."""

    modules = True
    MakeSettings: ClassVar[type[BaseModel]] = ForgetSettings

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The change; it is always open, as far as its strength says."""
        return always_open(self)

    @classmethod
    def forget(cls, lesson: Lesson, settings: Any) -> dict[str, Any]:
        """Change ``lesson.net``. Gives what the manifest says about it, beside the settings."""
        raise NotImplementedError

    @classmethod
    def measure(cls, lesson: Lesson, settings: Any) -> dict[str, Tensor]:
        """What a request begins with that no request changes, by ``Lesson.kept``; nothing by default."""
        return {}

    @classmethod
    def prepare(cls, host: Any, *, seed: int = 0, progress: bool = True, **options: Any) -> bool:
        """Measure it. Raises PolicyError as ``learn``."""
        if cls.measure.__func__ is Forgetting.measure.__func__:  # type: ignore[attr-defined]
            return False
        settings = make_settings(cls, options)
        task = Task(host, Concept(name="nothing"), [], settings, seed, Path(), f"{cls.name} prepare", progress)
        return bool(cls.measure(lesson_of(task, nothing=True), settings))

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Forget in a copy, and tell how it differs.

        Raises PolicyError for what is no classifier, a model in training mode, a class or label that it does not have,
        and a forget set that is empty or everything; ArtifactError where nothing changed.
        """
        lesson = lesson_of(task)
        made = cls.forget(lesson, task.settings)
        tensors = changed(lesson.before, lesson.net)
        if not tensors:
            raise ArtifactError(f"{task.label}: nothing was changed: give other settings")
        return Learned(tensors, told(task, lesson, **made))


def always_open(method: Method) -> Terms:
    """What a guard of a module is: its artifact's change, as far as its strength says. Raises ArtifactError."""
    assert method.artifact is not None
    low, whole = read_changes(method.artifact.tensors())
    gate = method.guard.gate if isinstance(method.guard.gate, float) else 1.0
    return Terms(method, low, Gate(strength=method.guard.strength * gate), whole=whole)


def read_changes(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Factors], dict[str, Tensor]]:
    """Low-rank terms by layers, and changes of whole tensors. Raises ArtifactError for a damaged file."""
    whole = {name.removesuffix(_WHOLE): one for name, one in tensors.items() if name.endswith(_WHOLE)}
    for name, change in whole.items():
        if not bool(change.isfinite().all()):
            raise ArtifactError(f"the change of {name[:160]} is no number: make the artifact again")
    low = read_beside(tensors) if is_beside(tensors) else {}
    if not whole and not low:
        raise ArtifactError("the file changes nothing: make the artifact again")
    return low, whole


def told(task: Task, lesson: Lesson, **made: Any) -> dict[str, Any]:
    """How it was made, for the manifest."""
    return task.made(seed=task.seed, forgotten=len(lesson.forget), retained=len(lesson.retain), **made)


def changed(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """What was added to each parameter and buffer of ``before`` that differs in ``after``, as an artifact keeps it."""
    old, new = places(before), places(after)
    found = {name: (new[name].tensor.detach() - place.tensor.detach()).float().cpu() for name, place in old.items()}
    return {f"{name}{_WHOLE}": change.contiguous() for name, change in found.items() if bool(change.any())}
