"""Class unlearning by concept inference: what a class consists of is found first, and only that is poisoned.

F ≈ U V, U, V ≥ 0        IG_k(x) = (U_xk − Ū_k) (V_k · w_c)        poison: examples of c that carry its own concepts

F are what the last layer w reads of all training examples: concepts are found in it by non-negative factorisation, as a
bottleneck after the fact. The head is linear in them, so that integrated gradients from the mean of what is retained
have this closed form. A class's own concepts are those it stands on most. Examples that carry them are then taught to
be what the head would call them without: poison where the class is, and nowhere else.

After Chang et al., "Class Machine Unlearning for Complex Data via Concepts Inference and Data Poisoning" (arXiv
2405.15662), of which neither code nor constants are known. Its concept banks are words; no word is needed here.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from .forgetting import ForgetSettings, Forgetting
from .lesson import Lesson


class ConceptPoisoningMakeSettings(ForgetSettings):
    """How concepts are found, and what is poisoned.

    concepts: how many are looked for
    own: share of a class's integrated gradients that its own concepts make up
    carry: share of its examples that are poisoned, those that carry these most
    labels: "targeted", what the head names without these concepts; "random", any other class
    steps, batch: optimiser steps, and poisoned examples in each, beside three times as many of what is retained
    lr: of Adam
    """

    concepts: int = Field(default=32, ge=2)
    own: float = Field(default=0.8, gt=0, le=1)
    carry: float = Field(default=0.9, gt=0, le=1)
    labels: Literal["targeted", "random"] = "targeted"
    steps: int = Field(default=50, ge=1)
    batch: int = Field(default=32, ge=1)
    lr: float = Field(default=5e-4, gt=0)


class ConceptPoisoning(Forgetting):
    """Modules: finds what a class consists of, and teaches its examples to be what they are without that."""

    name = "concept_poisoning"
    MakeSettings = ConceptPoisoningMakeSettings

    @classmethod
    def forget(cls, lesson: Lesson, settings: Any) -> dict[str, Any]:
        """As above."""
        s = settings
        classes = lesson.demand_whole_classes(
            "it poisons what a class consists of, and some examples of these are to be retained: name whole classes, "
            "or use dmm or laf"
        )
        features, head = _read(lesson)
        low = features.min(0).values.clamp_max(0)  # a transformer's features have signs
        active, bank = factorised(features - low, s.concepts, lesson.random)
        allowed = torch.ones(head.out_features, dtype=torch.bool, device=features.device)
        allowed[classes] = False  # nothing that is forgotten is called by the name of something else forgotten
        poisoned, labels, own_of = [], [], {}
        for label in classes.tolist():
            mine = lesson.forget[lesson.labels[lesson.forget] == label]
            away = active[mine] - active[lesson.retain].mean(0)
            share = away * (bank @ head.weight[label].detach())
            own = leading(share.mean(0), s.own)
            carried = share[:, own].sum(1)
            chosen = mine[carried.argsort(descending=True)[: max(1, round(s.carry * len(mine)))]]
            without = features[chosen] - active[chosen][:, own] @ bank[own]
            said = head(without).detach()
            if s.labels == "random":
                said = torch.rand(said.shape, generator=lesson.random).to(said)
            poisoned.append(chosen)
            labels.append(said.masked_fill(~allowed, -torch.inf).argmax(1))
            own_of[lesson.examples.classes[label]] = own.tolist()
        where, what = torch.cat(poisoned), torch.cat(labels)

        def loss(step: int) -> Tensor:
            some = torch.randperm(len(where), generator=lesson.random)[: s.batch]
            kept = lesson.some(lesson.retain, 3 * s.batch)
            given, _ = lesson.seen(torch.cat([where[some], kept]))
            return F.cross_entropy(lesson.net(given), torch.cat([what[some], lesson.labels[kept]]))

        lesson.tune(loss, s.steps, s.lr)
        return {"own_concepts": own_of, "poisoned": len(where)}


@torch.no_grad()
def _read(lesson: Lesson) -> tuple[Tensor, nn.Linear]:
    """What the last linear layer reads of every example, [n, width], and the layer."""
    head = [one for one in lesson.net.modules() if isinstance(one, nn.Linear)][-1]
    found: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda module, given: found.append(given[0]))
    try:
        for part in lesson.inputs.split(256):
            lesson.net(part)
    finally:
        handle.remove()
    return torch.cat(found), head


def factorised(x: Tensor, rank: int, random: torch.Generator, rounds: int = 100) -> tuple[Tensor, Tensor]:
    """x [n, width] ≥ 0 as u [n, rank] and v [rank, width], both ≥ 0, by multiplicative updates (Lee and Seung 2001)."""
    u = torch.rand(len(x), rank, generator=random).to(x) + 0.1
    v = torch.rand(rank, x.shape[1], generator=random).to(x) + 0.1
    for _ in range(rounds):
        u *= (x @ v.T) / (u @ (v @ v.T)).clamp_min(1e-9)
        v *= (u.T @ x) / ((u.T @ u) @ v).clamp_min(1e-9)
    return u, v


def leading(shares: Tensor, part: float) -> Tensor:
    """Places of the largest shares that make up a part of all positive ones; one at least."""
    order = shares.argsort(descending=True)
    total = shares.clamp_min(0)[order].cumsum(0)
    count = int((total < part * total[-1]).sum()) + 1
    return order[:count]
