"""Judges guards on an embedded classifier: each forget set, made and measured in one run."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import ConceptGuardError
from ...making.examples import load_examples
from ...making.fit import Recipe, fit
from ...policy import Policy
from ...sessions.attach import attach
from ..made import made
from .control import relabelled
from .evaluate import Judging, retrained_row, row
from .references import References, load_references


def recipe_of(net: Any) -> tuple[str, Recipe]:
    """Which of its folder's nets it is, and how that one is trained."""
    folder = Path(net.folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = net.name.removeprefix(folder.name).removeprefix("-") or config["default"]
    return kind, Recipe(config["nets"][kind]["epochs"], config["nets"][kind]["lr"])


class Bench:
    """A net that comes with examples and references. sets: what is judged, by name; kind: which of the nets it is.

    Times are of the processor, so that a busy machine does not show in a ratio.
    """

    CONTROLS = 3

    def __init__(self, net: Any):
        self.net: nn.Module = net
        self.folder = Path(net.folder)
        self.kind, self.recipe = recipe_of(net)
        self.examples = load_examples(self.folder)
        self._judging: dict[str, tuple[Judging, References]] = {}
        self.sets = [name for name in self.examples.forget if self._has(name)]

    def _has(self, name: str) -> bool:
        try:
            self.judged(name)
        except ConceptGuardError:
            return False
        return True

    def judged(self, name: str) -> tuple[Judging, References]:
        """A forget set and what was retrained without it. Raises RegistryError where nothing was."""
        if name not in self._judging:
            references = load_references(self.folder, self.kind, name)
            self._judging[name] = Judging.of(self.examples, self.examples.forget[name]), references
        return self._judging[name]

    @property
    def seeds(self) -> int:
        """How many models were trained without each set."""
        return len(self.judged(self.sets[0])[1].named)

    @cached_property
    def retrain_seconds(self) -> float:
        """What training from scratch takes here: a twelfth of it is done."""
        return self.training_seconds(max(1, self.recipe.epochs // 12))

    def training_seconds(self, epochs: int = 1) -> float:
        """What training from scratch takes here, of which so many epochs are done."""
        places, began = self.examples.of("train"), time.process_time()
        net = copy.deepcopy(self.net).requires_grad_(True)
        device = next(net.parameters()).device
        fit(net, self.examples.inputs[places].to(device), self.examples.labels[places].to(device),
            self.recipe._replace(epochs=epochs), seed=0)  # fmt: skip
        return (time.process_time() - began) * self.recipe.epochs / epochs

    def controls(self, concept: str) -> Iterator[dict[str, Any]]:
        """A retrained model, the model as it is, and one that was trained with random labels."""
        yield self.retrained(concept)
        yield self.bare(concept)
        yield self.relabelled(concept)

    def retrained(self, concept: str) -> dict[str, Any]:
        """One of the retrained models, judged by the others."""
        return retrained_row(*self.judged(concept), concept)

    def bare(self, concept: str) -> dict[str, Any]:
        """The model as it is."""
        return self._row(self.net, "none", concept)

    def relabelled(self, concept: str) -> dict[str, Any]:
        """The control, see ``control``."""
        judging, began = self.judged(concept)[0], time.process_time()
        net = relabelled(self.net, self.examples, judging.forget, judging.retain)
        return self._row(net, "relabel", concept, seconds=time.process_time() - began)

    def made(self, method: str, concept: str, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
        """What a method makes of a forget set, attached."""
        assert self.retrain_seconds  # of the model as it is, before anything is attached
        about = {"name": concept, "prompts": self.examples.forget[concept]}
        return made(self.net, method, about, out, settings, self.guarded)

    def guarded(self, policy: Policy, concept: str, seconds: float | None = None) -> dict[str, Any]:
        """A policy as it is, judged on a forget set."""
        with attach(self.net, policy):
            return self._row(self.net, policy.name, concept, seconds)

    def _row(self, net: nn.Module, name: str, concept: str, seconds: float | None = None) -> dict[str, Any]:
        judging, references = self.judged(concept)
        more = {} if seconds is None else {
            "make_seconds": round(seconds, 3), "ratio": round(seconds / self.retrain_seconds, 4)
        }  # fmt: skip
        return row(judging, judging.measured(net), references, name, concept, **more)
