"""Judges guards on an embedded net over a graph: each forget set, made and measured in one run."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...making.links import LinkRecipe, fit_links, named, others
from ...policy import Policy
from ...sessions.attach import attach
from ..classifier.measures import auc
from ..made import made

BAR_DELETED, BAR_KEPT = 0.05, 0.02
NONE, SEED = 20, 4_300  # pairs that each edge is compared with


class Bench:
    """A net that comes with edges that were kept back and forget sets. It sees the graph without what is forgotten.

    Times are of the processor, so that a busy machine does not show in a ratio.
    """

    CONTROLS = 3

    def __init__(self, net: Any):
        self.net, self.test = net, net.test
        self.sets: dict[str, list[str]] = net.forget
        self._retrained: dict[str, tuple[Any, float]] = {}

    @torch.no_grad()
    def auc_of(self, net: Any, pairs: Tensor, seen: Tensor | None = None) -> float:
        """How probably an edge is ranked above a pair of the same keyword and another emoji that is no edge at all.

        seen: edges that messages run along, by default all that the net was trained on
        """
        every, embedded = torch.cat([self.net.edges, self.test]), net.embedded(seen)
        random = torch.Generator().manual_seed(SEED)
        own = net.between(embedded, pairs).repeat_interleave(NONE)
        none = net.between(embedded, others(pairs.repeat_interleave(NONE, 0), every, len(net.emoji), random))
        return float(((own > none).double() + 0.5 * (own == none).double()).mean())

    def row(self, net: Any, method: str, concept: str, seconds: float | None = None) -> dict[str, Any]:
        """``deleted``: the AUC of what is forgotten, 0.5 where nothing tells it from what never was; ``kept``: of edges
        kept back, which ``before`` is of the model as it is; ``retained``: how probably an edge that remains is ranked
        above one that was deleted."""
        own, rest = named(self.net, self.sets[concept])
        with torch.no_grad():
            embedded = net.embedded(rest)
            apart = auc(net.between(embedded, rest), net.between(embedded, own))
        found: dict[str, Any] = {
            "method": method, "concept": concept, "edges": len(own), "deleted": round(self.auc_of(net, own, rest), 4),
            "kept": round(self.auc_of(net, self._kept(concept), rest), 4),
            "before": round(self.auc_of(self.net, self._kept(concept)), 4), "retained": round(apart, 4),
        }  # fmt: skip
        found["passes"] = (
            abs(found["deleted"] - 0.5) <= BAR_DELETED and abs(found["kept"] - found["before"]) <= BAR_KEPT
        )
        if seconds is not None:
            found |= {"make_seconds": round(seconds, 3), "ratio": round(seconds / self.retrained(concept)[1], 4)}
        return found

    def _kept(self, concept: str) -> Tensor:
        """Edges kept back that are of no keyword that is gone as a whole."""
        gone = {self.net.keywords.index(one) for one in self.sets[concept] if "/" not in one}
        return self.test[[i for i, word in enumerate(self.test[:, 1].tolist()) if word not in gone]]

    def retrained(self, concept: str) -> tuple[Any, float]:
        """A net that never saw a forget set, and how many seconds it took; made once."""
        if concept not in self._retrained:
            rest, began = named(self.net, self.sets[concept])[1], time.process_time()
            net = copy.deepcopy(self.net).requires_grad_(True)
            torch.manual_seed(SEED)
            for module in net.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            with torch.no_grad():
                net.bias.zero_()
            fit_links(net, rest, LinkRecipe(), SEED)
            self._retrained[concept] = net.requires_grad_(False), time.process_time() - began
        return self._retrained[concept]

    def controls(self, concept: str) -> list[dict[str, Any]]:
        """A net that was trained without; the model as it is, its edges merely taken out of the graph; and one that was
        trained to deny them, which anybody would try first."""
        began = time.process_time()
        denies = denying(self.net, *named(self.net, self.sets[concept]))
        seconds = time.process_time() - began
        return [
            self.row(self.retrained(concept)[0], "retrained", concept), self.row(self.net, "none", concept),
            self.row(denies, "deny", concept, seconds),
        ]  # fmt: skip

    def made(self, method: str, concept: str, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
        """What a method makes of a forget set, attached."""
        about = {"name": concept, "prompts": self.sets[concept]}
        return made(self.net, method, about, out, settings, self.guarded)

    def guarded(self, policy: Policy, concept: str, seconds: float | None = None) -> dict[str, Any]:
        """A policy as it is, judged on a forget set."""
        before = copy.deepcopy(self.net)
        with attach(self.net, policy):
            under = copy.copy(self)
            under.net, guarded = before, self.net
            return under.row(guarded, policy.name, concept, seconds)


def denying(net: Any, forget: Tensor, retain: Tensor, steps: int = 50, lr: float = 5e-3) -> Any:
    """A copy that was trained to give what is forgotten for no edges, and as many of the rest for edges."""
    own = copy.deepcopy(net).requires_grad_(True)
    random = torch.Generator().manual_seed(SEED)
    optimiser = torch.optim.Adam(own.parameters(), lr=lr)
    for _ in range(steps):
        some = retain[torch.randperm(len(retain), generator=random)[: len(forget)]]
        embedded = own.embedded(retain)
        loss = F.softplus(own.between(embedded, forget)).mean() + F.softplus(-own.between(embedded, some)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return own.requires_grad_(False)
