"""S3T: what is added to a model is learned in slices, each in layers of its own, so that deletion is deactivation.

An order of slices begins at the top block. Stage i trains terms beside the queries and values of its block, and a head
of its own, on the slices up to i of the order. To delete an example the order is cut before its slice: what is served
then is what a run that never saw the slice has learned, to the last bit. Of several orders the one with the most left
is served.

Chowdhury, Choromanski, Sehanobish, Dubey and Chaturvedi, "Towards Scalable Exact Machine Unlearning Using
Parameter-Efficient Fine-Tuning", ICLR 2025. Their code has one head for all stages, with which deactivating is not
exact.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.formats.beside import read_beside, write_beside
from conceptguard.making.examples import Examples, load_examples
from conceptguard.making.fit import moved
from conceptguard.making.loop import Loop
from conceptguard.making.task import Learned, Task
from conceptguard.making.terms import TermsInTraining
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import Factors, LayerIndex, Terms

from .forgetting import ForgetSettings
from .lesson import classifier_of

_QUERY_OR_VALUE = re.compile(r"^model\.(?:.*\.)?(\d+)\..*\b(?:q|v|q_proj|v_proj|query|value)$")


class S3TSettings(Settings):
    """deleted: examples that are to be unlearned, as patterns of their keys, class/style, or names of classes"""

    deleted: list[str] = []


class S3TMakeSettings(ForgetSettings):
    """How slices are learned. In brackets what the authors use.

    data: the examples that are added, a .safetensors file with inputs and labels; by default those of an embedded
    model's styles that it never saw
    slices: how many, at most as many as there are blocks; an example's is told by a hash of its class and style
    orders: cyclic rotations of the slices, each a training of its own
    without: examples that this run is not to see at all, as patterns of their keys: what deletion is compared with
    rank: of the terms [16]
    steps, batch: optimiser steps of each stage, and examples in each; as many of the model's own remind it
    lr: of Adam [2e-4]
    """

    slices: int = Field(default=4, ge=1)
    orders: int = Field(default=2, ge=1)
    without: list[str] = []
    rank: int = Field(default=8, ge=1)
    steps: int = Field(default=40, ge=1)
    batch: int = Field(default=48, ge=1)
    lr: float = Field(default=5e-3, gt=0)


class Stage(NamedTuple):
    """What one stage learned: terms by layers, and the change of the head's weight and bias."""

    terms: dict[str, Factors]
    head: dict[str, Tensor]


class S3T(Method):
    """Modules: teaches a transformer in slices; deleting an example is exactly never having seen its slice."""

    name = "s3t"
    modules = True
    Settings = S3TSettings
    MakeSettings = S3TMakeSettings

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """The stages of the longest order that no deleted example is in. Raises PolicyError for one that no slice has,
        ArtifactError for a damaged file."""
        assert self.artifact is not None
        slices = self.artifact.manifest.made.get("slices", [])
        order, left = served(slices, self.artifact.manifest.made.get("orders", []), self.settings.deleted)
        low, whole = stages_of(self.artifact.tensors(), order, left)
        return Terms(self, low, Gate(strength=self.guard.strength), whole=whole)

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """Train every stage of every order. Raises PolicyError for what is no transformer of enough numbered blocks."""
        s = task.settings
        net = classifier_of(task)
        place: Any = s.data or getattr(net, "folder", None)
        if place is None:
            raise PolicyError(f"{task.label}: what is to be taught? Give data, a .safetensors file of examples")
        examples = load_examples(place)
        own, reminders = _split(examples, bool(s.data), task.concept.prompts, s.without)
        layers = LayerIndex({"model": net})
        blocks = _blocks(layers)
        if len(blocks) < s.slices:
            raise PolicyError(f"{task.label}: {task.host.name} has {len(blocks)} blocks with queries and values, and "
                              f"{s.slices} slices need one each: give fewer slices")  # fmt: skip
        slices = [[place for place in own if slice_of(_pair(examples.keys[place]), s.slices) == i]
                  for i in range(s.slices)]  # fmt: skip
        if not any(slices):
            raise PolicyError(
                f"{task.label}: no example is added: name classes or patterns of examples that it never saw"
            )
        orders = [[(first + i) % s.slices for i in range(s.slices)] for first in range(min(s.orders, s.slices))]
        tensors: dict[str, Tensor] = {}
        with task.bar(len(orders) * s.slices * s.steps) as tick:
            done = 0
            for number, order in enumerate(orders):
                before: list[Stage] = []
                for stage, last in enumerate(order):
                    if not slices[last]:
                        break  # an order ends where it has nothing to learn
                    seen = torch.tensor(sorted(place for one in order[: stage + 1] for place in slices[one]))
                    random = torch.Generator().manual_seed(task.seed * 1_000_003 + number * 101 + stage)
                    names = blocks[len(blocks) - 1 - stage]
                    loop = _Lesson(task, net, examples, seen, reminders, random)
                    before.append(loop.train(names, before, lambda step, value, at=done: tick(at + step, value)))
                    done += s.steps
                    for key, one in _kept(before[-1]).items():
                        tensors[f"{number}.{stage}.{key}"] = one
        pairs = [sorted({_pair(examples.keys[place]) for place in some}) for some in slices]
        return Learned(tensors, task.made(seed=task.seed, slices=pairs, orders=orders))


class _Lesson(NamedTuple):
    """One stage's training."""

    task: Task
    net: nn.Module
    examples: Examples
    seen: Tensor
    reminders: Tensor
    random: torch.Generator

    def train(self, names: Sequence[str], before: Sequence[Stage], tick: Any) -> Stage:
        """Terms beside some layers, and a head, on top of earlier stages."""
        s, own = self.task.settings, copy.deepcopy(self.net).requires_grad_(False)
        path, head = [(name, one) for name, one in own.named_modules() if isinstance(one, nn.Linear)][-1]
        first = {key: one.detach().clone() for key, one in head.named_parameters()}
        layers = LayerIndex({"model": own})
        with torch.no_grad():
            for stage in before:
                for name, (down, up, _) in stage.terms.items():
                    weight: Any = layers[name].weight
                    weight += (up @ down).to(weight)
            for name, change in (before[-1].head if before else {}).items():
                key = name.rpartition(".")[2]
                getattr(head, key).add_(change.to(first[key]))
        terms = TermsInTraining(layers, names, s.rank, self.random)
        device, dtype = self.task.host.device_dtype()

        def loss(step: int) -> Tensor:
            places = torch.cat([
                some[torch.randperm(len(some), generator=self.random)[: s.batch]]
                for some in (self.seen, self.reminders)
            ])  # fmt: skip
            given, labels = self.examples.inputs[places], self.examples.labels[places].to(device)
            given = (moved(given, self.random) if given.ndim == 4 else given).to(device, dtype)
            terms.open(len(given))
            return F.cross_entropy(own(given), labels)

        with terms.attached([]) as parameters:
            head.requires_grad_(True)
            learned = [*parameters, *head.parameters()]
            optimiser = torch.optim.Adam(learned, lr=s.lr)
            Loop(self.task.label, learned, optimiser, self.random, s.steps, reports=[tick, *self.task.reports],
                 rate=lambda step: s.lr * (1 - step / s.steps)).run(loss)  # fmt: skip
            found = terms.changes()
        changed = {
            f"model.{path}.{key}": (one.detach() - first[key]).float().cpu() for key, one in head.named_parameters()
        }
        return Stage(found, changed)


def slice_of(pair: str, slices: int) -> int:
    """The slice of a class and style: the same whatever else there is."""
    return int(hashlib.sha256(pair.encode()).hexdigest(), 16) % slices


def served(slices: Sequence[Sequence[str]], orders: Sequence[Sequence[int]], deleted: Sequence[str]) -> tuple[int, int]:
    """Which order, and how many of its stages, no deleted example is in; the first of the longest. Raises PolicyError
    for a pattern that no slice has."""
    gone: set[int] = set()
    for pattern in deleted:
        hit = {i for i, pairs in enumerate(slices) if any(_means(pattern, pair) for pair in pairs)}
        if not hit:
            raise PolicyError(
                f"nothing that was taught matches '{pattern}': give a class, or a pattern such as */noto-v1"
            )
        gone |= hit
    lengths = []
    for order in orders:
        usable = [bool(slices[one]) and one not in gone for one in order]
        lengths.append(usable.index(False) if False in usable else len(usable))
    best = max(range(len(lengths)), key=lambda number: lengths[number], default=0)
    return best, lengths[best] if lengths else 0


def stages_of(tensors: Mapping[str, Tensor], order: int, left: int) -> tuple[dict[str, Factors], dict[str, Tensor]]:
    """Terms of an order's first stages, and the last one's head. Raises ArtifactError for a damaged file."""
    low: dict[str, Factors] = {}
    whole: dict[str, Tensor] = {}
    for stage in range(left):
        begin = f"{order}.{stage}."
        own = {key.removeprefix(begin): one for key, one in tensors.items() if key.startswith(begin)}
        low |= read_beside(own)
        whole = {key.removesuffix(".whole"): one for key, one in own.items() if key.endswith(".whole")}
        if not all(bool(one.isfinite().all()) for one in whole.values()):
            raise ArtifactError(f"the head of stage {stage} is no number: make the artifact again")
    return low, whole


def _kept(stage: Stage) -> dict[str, Tensor]:
    return {**write_beside(stage.terms)[0], **{f"{name}.whole": one for name, one in stage.head.items()}}


def _split(
    examples: Examples, own_data: bool, prompts: Sequence[str], without: Sequence[str]
) -> tuple[list[int], Tensor]:
    """Places of what is added, and of what the model knows already."""
    added = examples.of("train") if own_data else examples.of("unseen")
    found = [
        place for place in added.tolist()
        if any(_means(prompt, _pair(examples.keys[place])) for prompt in prompts)
        and not any(_means(pattern, _pair(examples.keys[place])) for pattern in without)
    ]  # fmt: skip
    return found, examples.of("train")[:0] if own_data else examples.of("train")


def _pair(key: str) -> str:
    return key.rsplit("/", 1)[0]


def _means(pattern: str, pair: str) -> bool:
    return fnmatchcase(pair, pattern) or pair.split("/")[0] == pattern


def _blocks(layers: LayerIndex) -> list[list[str]]:
    """Names of the queries and values of each numbered block, from the bottom."""
    found: dict[int, list[str]] = defaultdict(list)
    for name in layers:
        if match := _QUERY_OR_VALUE.match(name):
            found[int(match[1])].append(name)
    return [found[number] for number in sorted(found)]
