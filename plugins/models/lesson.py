"""What a formula that forgets in a classifier is handed: a copy of it, its examples, and which of them are to go."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conceptguard.errors import PolicyError
from conceptguard.making.examples import Examples, load_examples
from conceptguard.making.fit import moved
from conceptguard.making.loop import Ended, Loop
from conceptguard.making.pieces import Pieces
from conceptguard.registry.cache import cache_folder

if TYPE_CHECKING:
    from conceptguard.making.task import Task


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

    def demand_whole_classes(self, why: str) -> Tensor:
        """The classes to be forgotten, [k]. Raises PolicyError, which says ``why``, where some examples of these are
        retained."""
        classes = self.labels[self.forget].unique()
        if bool(torch.isin(self.labels[self.retain], classes).any()):
            raise PolicyError(f"{self.task.label}: {why}")
        return classes

    def seen(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels as a training sees them: pictures a little moved each time."""
        given = self.inputs[places]
        return moved(given, self.random) if given.ndim == 4 else given, self.labels[places]

    def kept(
        self, what: str, places: Tensor, measure: Callable[[], dict[str, Tensor]], **about: Any
    ) -> dict[str, Tensor]:
        """What was measured of the model and of examples at some places, whichever of them are to be forgotten: kept
        for whatever is asked next, see ``measured``. about: what it hangs on beside these"""
        read = hashlib.sha256()
        for one in (self.inputs[places], self.labels[places], *self.before.state_dict().values()):
            read.update(one.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        found = measured({"what": what, "of": read.hexdigest(), "torch": torch.__version__} | about, measure)
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


def classifier_of(task: Task) -> nn.Module:
    """The module of a task. Raises PolicyError for what is none, or is in training mode."""
    host: Any = task.host
    if getattr(host, "generates", "") != "tensors":
        raise PolicyError(f"{task.label}: it is for classifiers and other plain modules, not for {host.name}")
    model: nn.Module = host.model
    if model.training:
        raise PolicyError(f"{host.name} is in training mode, in which every call changes it: call eval() on it first")
    return model


def lesson_of(task: Task, nothing: bool = False) -> Lesson:
    """The task as a formula sees it. Raises PolicyError, see ``Forgetting.learn``.

    nothing: nothing is to be forgotten, whatever the concept is
    """
    host: Any = task.host
    model = classifier_of(task)
    place = task.settings.data or getattr(model, "folder", None)
    if place is None:
        raise PolicyError(f"{task.label}: on which examples was {host.name} trained? Give data, a .safetensors file")
    examples = load_examples(place)
    own = examples.of("train")
    forget = own[:0] if nothing else examples.matching(task.concept.prompts)
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


def measured(about: Mapping[str, Any], measure: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What ``measure`` gives, measured once: it lies in the cache under what it is about, whoever asks, and is measured
    again where it is damaged."""
    return Pieces(cache_folder() / "measured", {}).get(about, measure)
