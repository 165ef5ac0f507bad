"""What forgets in a classifier: all of a maker but its formula, and the guard that any of them becomes.

A formula is handed a copy of the model, what it is to forget and what it is to retain, and changes the copy. The
artifact is how the copy differs from the model; attached, that is folded into the model's weights.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.formats.beside import is_beside, read_beside
from conceptguard.making.examples import Examples, load_examples
from conceptguard.making.fit import moved
from conceptguard.making.loop import Ended, Loop
from conceptguard.making.pieces import Pieces
from conceptguard.making.task import Learned
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.folded import places
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import Factors, Terms

if TYPE_CHECKING:
    from conceptguard.making.task import Task
    from conceptguard.runtime.lowrank import LayerIndex

_WHOLE = ".whole"


class ForgetSettings(Settings):
    """data: the examples that the model was trained on, a .safetensors file with inputs and labels; by default those
    that an embedded model comes with"""

    data: str | None = None


@dataclass
class Lesson:
    """What a formula is handed.

    net: a copy of the model, in evaluation mode, whose parameters take gradients; before: the model itself
    inputs [n, ...], labels [n]: of all training examples; forget, retain: places in them
    random: the same draws for the same seed
    """

    task: Task
    net: nn.Module
    before: nn.Module
    examples: Examples
    inputs: Tensor
    labels: Tensor
    forget: Tensor
    retain: Tensor
    random: torch.Generator

    def some(self, places: Tensor, n: int) -> Tensor:
        """``n`` of some places, drawn anew each time; all where there are fewer."""
        return places[torch.randperm(len(places), generator=self.random)[:n]]

    def spread(self, n: int) -> Tensor:
        """``n`` places of all examples, of each class its share, the same whatever is to be forgotten; all for 0.

        Raises PolicyError where none of them is retained.
        """
        if not 0 < n < len(self.labels):
            return torch.arange(len(self.labels))
        drawn = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(self.task.seed))
        by_class = drawn[self.labels.cpu()[drawn].argsort(stable=True)]
        found = by_class[torch.linspace(0, len(drawn) - 1, n).round().long()].sort().values
        if not bool(torch.isin(found, self.retain).any()):
            raise PolicyError(f"{self.task.label}: none of {n} examples is retained: give a larger sample")
        return found

    def seen(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels as a training sees them: pictures a little moved each time."""
        given = self.inputs[places]
        return moved(given, self.random) if given.ndim == 4 else given, self.labels[places]

    def kept(
        self, what: str, places: Tensor, measure: Callable[[], dict[str, Tensor]], **about: Any
    ) -> dict[str, Tensor]:
        """What was measured of the model and of examples at some places, whichever of them are to be forgotten: kept
        beside the artifact, for whatever is asked next. about: what it hangs on beside these"""
        read = hashlib.sha256()
        for one in (self.inputs[places], self.labels[places], *self.before.state_dict().values()):
            read.update(one.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        about |= {"what": what, "of": read.hexdigest(), "torch": torch.__version__}
        found = Pieces(self.task.folder.parent / ".measured", {}).get(about, measure)
        return {name: one.to(self.inputs.device) for name, one in found.items()}

    def tune(
        self, loss: Callable[[int], Tensor], steps: int, lr: float, parameters: Sequence[Tensor] | None = None
    ) -> Ended:
        """Train the copy, or some of its parameters, by Adam at a rate that falls to nothing; statistics of its norms
        stay as they are."""
        own = list(self.net.parameters()) if parameters is None else list(parameters)
        optimiser = torch.optim.Adam(own, lr=lr)
        with self.task.bar(steps) as tick:
            loop = Loop(self.task.label, own, optimiser, self.random, steps, reports=[tick, *self.task.reports],
                        rate=lambda step: lr * (1 - step / steps))  # fmt: skip
            return loop.run(loss)


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


def classifier_of(task: Task) -> nn.Module:
    """The module of a task. Raises PolicyError for what is none, or is in training mode."""
    host: Any = task.host
    if getattr(host, "generates", "") != "tensors":
        raise PolicyError(f"{task.label}: it is for classifiers and other plain modules, not for {host.name}")
    model: nn.Module = host.model
    if model.training:
        raise PolicyError(f"{host.name} is in training mode, in which every call changes it: call eval() on it first")
    return model


def lesson_of(task: Task) -> Lesson:
    """The task as a formula sees it. Raises PolicyError, see ``Forgetting.learn``."""
    host: Any = task.host
    model = classifier_of(task)
    place = task.settings.data or getattr(model, "folder", None)
    if place is None:
        raise PolicyError(f"{task.label}: on which examples was {host.name} trained? Give data, a .safetensors file")
    examples = load_examples(place)
    own = examples.of("train")
    forget = examples.matching(task.concept.prompts)
    device, dtype = host.device_dtype()
    inputs, labels = examples.inputs[own].to(device, dtype), examples.labels[own].to(device)
    net = copy.deepcopy(model).requires_grad_(True)
    net.register_forward_hook(lambda module, args, out: getattr(out, "logits", out))  # of transformers, say
    with torch.no_grad():
        given = net(inputs[:2])
    if not isinstance(given, Tensor) or given.ndim != 2:
        raise PolicyError(f"{task.label}: {host.name} gives no logits [n, classes], so that it is no classifier")
    if int(labels.max()) >= given.shape[1]:
        raise PolicyError(
            f"{task.label}: a label is {int(labels.max())}, and the model has {given.shape[1]} classes, from 0 to "
            f"{given.shape[1] - 1}: give the examples that it was trained on"
        )
    is_forgotten = torch.isin(own, forget)
    random = torch.Generator().manual_seed(task.seed)
    everywhere = torch.arange(len(own))
    return Lesson(
        task, net, model, examples, inputs, labels, everywhere[is_forgotten], everywhere[~is_forgotten], random
    )
