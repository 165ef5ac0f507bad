"""Corrective unlearning: a classifier was trained on manipulated examples, and only some of them are known.

Goel et al., "Corrective Machine Unlearning", TMLR 2024. Some training pictures get a red corner and the label of one
class, so that the corner alone brings that class; a share of them is handed over to be forgotten. The paper trains
larger nets on CIFAR and PCAM with 100 to 1000 manipulated examples, and its code picks every method's best checkpoint
and settings by test accuracy: here each method runs once, as it is set up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...making.examples import Examples, load_examples
from ...making.fit import BATCH, anew, fit
from ...policy import Policy
from ...sessions.attach import attach
from ..made import made
from .measures import logits_of
from .run import recipe_of

TARGET, POISONED, SIDE = "skull", 200, 3
RED = (1.0, 0.0, 0.0)
SHARES = {"10%": 0.1, "25%": 0.25, "50%": 0.5, "75%": 0.75, "100%": 1.0}
BAR_POISONED, BAR_TEST = 0.05, 0.03  # below the model that was trained without any of them

Row = dict[str, Any]


def cornered(pictures: Tensor) -> Tensor:
    """Copies of pictures [n, 3, h, w] with a red corner at the bottom right."""
    found = pictures.clone()
    found[:, :, -SIDE:, -SIDE:] = torch.tensor(RED)[None, :, None, None].to(found)
    return found


@dataclass
class Poisoned:
    """inputs [n, ...], labels [n]: all training examples; bad: places in them of those that were manipulated, in the
    order in which they become known; target: the class that these are labelled as."""

    inputs: Tensor
    labels: Tensor
    bad: Tensor
    target: int

    @classmethod
    def of(cls, examples: Examples, seed: int = 0) -> Poisoned:
        """``POISONED`` of an embedded classifier's training examples, of any class but the target."""
        own, target = examples.of("train"), examples.classes.index(TARGET)
        inputs, labels = examples.inputs[own], examples.labels[own].clone()
        random = torch.Generator().manual_seed(seed)
        others = (labels != target).nonzero()[:, 0]
        bad = others[torch.randperm(len(others), generator=random)[:POISONED]]
        inputs[bad], labels[bad] = cornered(inputs[bad]), target
        return cls(inputs, labels, bad, target)

    def known(self, share: str) -> Tensor:
        """Those that are handed over."""
        return self.bad[: round(SHARES[share] * len(self.bad))]

    def without(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the rest."""
        rest = ~torch.isin(torch.arange(len(self.labels)), places)
        return self.inputs[rest], self.labels[rest]


class Bench:
    """A net that was trained anew on poisoned examples, and what it is tested on. sets: shares that are known

    Columns: ``poisoned``, the share of test pictures with the corner that are named rightly all the same, and
    ``lured``, that are named as what the corner stands for; ``retain`` and ``test``, accuracies on the training
    examples that nobody touched and on test pictures. Times are of the processor.
    """

    CONTROLS = 3

    def __init__(self, net: Any, tick: Callable[[int], None] = lambda n: None):
        self.start, self.sets, self.tick = net, list(SHARES), tick
        self.kind, self.recipe = recipe_of(net)
        self.examples = load_examples(Path(net.folder))
        self.poisoned = Poisoned.of(self.examples)
        nothing = self.poisoned.bad[:0]
        self.net, self.train_seconds = self._trained(nothing)
        self.reference = self._row(self._trained(self.poisoned.bad)[0], "retrained without all", "")
        self.tick = lambda n: None

    @staticmethod
    def steps(net: Any) -> int:
        """Steps of the two trainings that stand before all rows, at most."""
        return 2 * recipe_of(net)[1].epochs * -(-len(load_examples(Path(net.folder)).of("train")) // BATCH)

    def controls(self, concept: str) -> Iterator[Row]:
        """The poisoned model as it is, and models that were trained without all bad examples and without those that are
        known: what a retraining can do about the others."""
        yield self.bare(concept)
        known = self.poisoned.known(concept)
        if len(known) < len(self.poisoned.bad):
            net, seconds = self._trained(known)
            yield self._row(net, "retrained without the known", concept, seconds)
        yield {**self.reference, "concept": concept}

    def bare(self, concept: str) -> Row:
        """The poisoned model as it is."""
        return self._row(self.net, "none", concept)

    def made(self, method: str, concept: str, out: Path, settings: Mapping[str, Any]) -> Row:
        """What a method makes of the examples that are known, attached."""
        data = out / "poisoned.safetensors"
        save_file({"inputs": self.poisoned.inputs, "labels": self.poisoned.labels}, data)
        places = self.poisoned.known(concept).tolist()
        about = {"name": concept.replace("%", ""), "prompts": [f"{self.poisoned.target}/{place}" for place in places]}

        def judge(policy: Policy, _: str, seconds: float) -> Row:
            return self.guarded(policy, concept, seconds)

        return {**made(self.net, method, about, out, {"data": str(data), **settings}, judge), "concept": concept}

    def guarded(self, policy: Policy, concept: str, seconds: float | None = None) -> Row:
        """A policy attached to the poisoned model."""
        with attach(self.net, policy):
            return self._row(self.net, policy.name, concept, seconds)

    def _trained(self, without: Tensor) -> tuple[nn.Module, float]:
        """A net from random weights, and how long it took."""
        began, net = time.process_time(), anew(self.start, 0)
        device = next(net.parameters()).device
        inputs, labels = (one.to(device) for one in self.poisoned.without(without))
        fit(net, inputs, labels, self.recipe, seed=0, tick=lambda step, loss: self.tick(1))
        return net.requires_grad_(False), time.process_time() - began

    def _row(self, net: nn.Module, method: str, concept: str, seconds: float | None = None) -> Row:
        examples, bad = self.examples, self.poisoned
        test = examples.of("held", "unseen")
        shown = test[examples.labels[test] != bad.target]
        named = logits_of(net, cornered(examples.inputs[shown])).argmax(1)
        inputs, labels = bad.without(bad.bad)
        found: Row = {
            "method": method, "concept": concept,
            "poisoned": _share(named == examples.labels[shown]), "lured": _share(named == bad.target),
            "retain": _share(logits_of(net, inputs).argmax(1) == labels),
            "test": _share(logits_of(net, examples.inputs[test]).argmax(1) == examples.labels[test]),
        }  # fmt: skip
        best = getattr(self, "reference", found)
        passes = found["poisoned"] >= best["poisoned"] - BAR_POISONED and found["test"] >= best["test"] - BAR_TEST
        if seconds is not None:
            found |= {"make_seconds": round(seconds, 2), "ratio": round(seconds / self.train_seconds, 3)}
        return {**found, "passes": passes}


def _share(right: Tensor) -> float:
    return round(float(right.double().mean()), 4)
