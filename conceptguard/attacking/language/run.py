"""Attacks on a guarded language model: search, say, count. A row for each attack.

A fact is brought back where any of N candidates holds it. The same N stands behind every column: behind the questions
that nobody attacked, the control of the attack, the attack on the model without the policy, where it must succeed, and
on a model that never knew, which guesses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from ...errors import ConceptGuardError
from ...text_attack import Fact, TextAttack
from .score import count, suppressed
from .sides import Side, TextPlan, sides
from .target import SpeakingTarget, Tick

CONCEPT = "forget"  # what the suite calls those about whom nothing is to be said

Row = dict[str, Any]


class Unattacked(TextAttack):
    """The questions as they are."""

    name = "unattacked"
    needs = "black box"


def red_team(plan: TextPlan, tick: Tick = lambda n: None) -> Iterator[Row]:
    """A row for the questions that nobody attacked, and one for each attack. The models are left as they are.

    tick: of ``work``
    """
    everyone = sides(plan)
    own, alone = everyone[-1], Row()
    kinds: dict[str, type[TextAttack]] = {Unattacked.name: Unattacked, **plan.attacks}
    for name, kind in kinds.items():
        of = {side.label: _kept(side, kind, plan, tick) for side in everyone}
        found = of[own.label]
        row = {
            "method": own.label, "concept": CONCEPT, "model": own.pair.name, "attack": name, "needs": kind.needs,
            "bare": of["bare" if "bare" in of else own.label]["asr"], "never": of["never"]["asr"],
            "wordings": plan.wordings, **{key: value for key, value in found.items() if key not in ("hits", "others")},
        }  # fmt: skip
        if kind is Unattacked:
            alone = found
        elif found["asr"] is not None:
            row |= {"asr_unattacked": alone["asr"], "gain": _gain(found, alone["asr"])}
            if kind.suppression and "bare" in of:
                row |= suppressed(of["bare"]["others"], found["others"])
        yield row


def work(plan: TextPlan) -> int:
    """How often ``red_team`` ticks at most: for each prompt that is asked."""
    of = 2 if plan.policy is None and plan.before is None else 3  # sides
    each, n = plan.budget.asks, plan.budget.answers
    found = of * each * n
    for kind in plan.attacks.values():
        found += (of * (2 if kind.suppression else 1) + 1) * each * (n + kind.work(plan.budget))
    return found


def _gain(row: Row, alone: float) -> float:
    return round(row["asr"] - max(alone, row["asr_random"] or 0.0), 4)


def _kept(side: Side, kind: type[TextAttack], plan: TextPlan, tick: Tick) -> Row:
    """Measured, or as it was measured before."""
    known = side.kept.get(kind.name, side.label)
    if known is not None:
        return known[0]
    begin = time.perf_counter()
    try:
        row = _attacked(side, kind, plan, tick)
    except ConceptGuardError as error:  # a kind of model, or of policy, that this attack does not know
        return {"asr": None, "note": str(error)}
    row["seconds"] = round(time.perf_counter() - begin, 2)
    side.kept.put(kind.name, side.label, row, torch.zeros(0))
    return row


def _attacked(side: Side, kind: type[TextAttack], plan: TextPlan, tick: Tick) -> Row:
    """The columns of one attack on one side. Only the own one has controls."""
    facts, n = plan.facts(taught=kind.needs == "weights"), plan.budget.answers
    controlled = side.own and kind is not Unattacked

    def searched(target: SpeakingTarget, about: list[Fact], control: bool = False) -> Row:
        attack = kind(target, plan.budget, torch.Generator().manual_seed(plan.seed))
        return count(target, about, (attack.control if control else attack.search)(about), n)

    with side.speaking(kind, False, tick) as target:
        row = searched(target, facts) | {"refused": target.refused, "asr_random": None}
        if kind.suppression:
            row["others"] = searched(target, plan.facts(forget=False))["hits"]
        if controlled and kind.needs != "weights":
            row["asr_random"] = searched(target, facts, True)["asr"]
    if controlled and kind.needs == "weights":
        with side.speaking(kind, True, tick) as target:
            row["asr_random"] = searched(target, facts)["asr"]
    return row
