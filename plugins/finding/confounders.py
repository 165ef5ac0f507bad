"""Confounders: what a decision leans on though it is not what the class is, and a rule that forbids it.

After "Rewriting a model's decision" (its code and constants are not public): concepts are discovered, a person reads
what each class leans on and writes a rule, and the decision is learnt again without it. Constants are ours, and so is
how a rule is kept: the way in which pictures with the concept differ from others of their class is taken out of the
rows before the decision is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.finder import Found, FoundConcept, Search
from conceptguard.finding.checks import present
from conceptguard.finding.decides import fit

from .found import MOST, Looking, PictureFinder, Seen, concepts, see, told
from .lens import extract

FOLDS = 4
FEWEST = 3  # pictures of a class with a concept, and without it, or nothing is said about the two


class ConfoundersFindSettings(Looking):
    """rules: CLASS: CONCEPT for each concept, by its name in the table, that must not tell the class"""

    concepts: int = Field(default=26, ge=1, le=MOST)
    rules: list[str] = []


class Confounders(PictureFinder):
    """Pictures: what a decision between classes leans on that is in other classes as well, and rules that forbid it."""

    name: ClassVar[str] = "confounders"
    judged: ClassVar[bool] = False  # what one class alone shows is nothing to it
    FindSettings: ClassVar[Any] = ConfoundersFindSettings

    @classmethod
    def find(cls, search: Search) -> Found:
        """Rows: ``lean``, logits that a class gains by the concept among pictures of one and the same class, decided by
        who did not learn from them; ``in_class`` and ``elsewhere``, shares of pictures with it; ``against``, the share
        decided rightly of those pictures that have it and are of another class, or lack it and are of this one.

        Raises PolicyError for pictures that are not sorted, and for a rule about something that is not there.
        """
        s = search.settings
        seen = see(search)
        if not seen.decides.classes:
            raise PolicyError("confounders are what tells classes apart: give pictures in folders of their classes")
        amounts, _ = extract(seen, "nmf", s.concepts)
        every = torch.ones(amounts.shape[1]) / amounts.shape[1]
        found = concepts(seen, amounts, every, [""] * len(every))
        decided = _decided(seen, seen.whole)
        leaning = [(one, it) for one in found if (it := _lean(seen, one, decided)) is not None]
        leaning.sort(key=lambda pair: -pair[1].lean)
        total = sum(max(it.lean, 0.0) for _, it in leaning) or 1.0
        for one, it in leaning:
            one.importance, one.about = max(it.lean, 0.0) / total, it.about
        right = _right(seen, decided)
        rows = [
            {"concept": one.name, "about": it.about, "lean": round(it.lean, 2), "in_class": round(it.inside, 2),
             "elsewhere": round(it.outside, 2), "against": _share(right[it.against])}
            for one, it in leaning
        ]  # fmt: skip
        figures = _ruled(seen, leaning, decided, s.rules, search.seed)
        shown = [one for one, _ in leaning]
        result = told(seen, shown, f"that a class may lean on without being it{_said(figures)}", **figures)
        return Found(rows, result.told, result.figures, shown)


@dataclass(frozen=True)
class _Lean:
    """about: the class; against: pictures that speak against the concept's telling it, [n] of bool"""

    about: str
    lean: float
    inside: float
    outside: float
    against: Tensor


def _decided(seen: Seen, rows: Tensor) -> Tensor:
    """Logits of each class [n, classes], each picture's by a decision that was learnt from others."""
    names, wanted = seen.by_class()
    # Every fold has some of each class.
    fold = torch.empty(len(rows), dtype=torch.long)
    for c in range(len(names)):
        mine = (wanted == c).nonzero()[:, 0]
        fold[mine] = torch.arange(len(mine)) % FOLDS
    found = torch.empty(len(rows), len(names))
    for f in range(FOLDS):
        learn = fold != f
        middle = rows[learn].mean(0)
        weights = fit(rows[learn] - middle, wanted[learn], len(names))
        found[~learn] = (rows[~learn] - middle) @ weights.T
    return found


def _right(seen: Seen, decided: Tensor) -> Tensor:
    return decided.argmax(1) == seen.by_class()[1]


def _lean(seen: Seen, one: FoundConcept, decided: Tensor) -> _Lean | None:
    """For the class that a concept goes with; None where it is in all pictures of it or in none of others, since then
    nobody can tell whether it is the class itself."""
    names, wanted = seen.by_class()
    there = present(one)
    shares = torch.stack([there[wanted == c].float().mean() for c in range(len(names))])
    c = int(shares.argmax())
    mine = wanted == c
    groups = [mine & there, mine & ~there, ~mine & there, ~mine & ~there]
    if min(int(group.sum()) for group in groups) < FEWEST:
        return None
    means = [float(decided[group, c].mean()) for group in groups]
    lean = ((means[0] - means[1]) + (means[2] - means[3])) / 2
    outside = float(there[~mine].float().mean())
    return _Lean(names[c], lean, float(shares[c]), outside, groups[1] | groups[2])


def _ruled(
    seen: Seen, leaning: Sequence[tuple[FoundConcept, _Lean]], decided: Tensor, rules: Sequence[str], seed: int
) -> dict[str, Any]:
    """What the rules did, beside as many directions at random. Raises PolicyError."""
    right = _right(seen, decided)
    if not rules:
        return {"accuracy_before": _share(right)}
    chosen = []
    for rule in rules:
        about, _, name = (part.strip() for part in rule.partition(":"))
        pair = next((pair for pair in leaning if pair[0].name == name and pair[0].about == about), None)
        if pair is None:
            known = ", ".join(f"'{one.about}: {one.name}'" for one, _ in leaning[:6])
            raise PolicyError(f"rule '{rule}': no class leans on such a concept; write CLASS: CONCEPT, as {known}")
        chosen.append(pair)
    against = torch.stack([it.against for _, it in chosen]).any(0)
    figures = {"accuracy_before": _share(right), "against_before": _share(right[against])}
    away = torch.stack([_way(seen, one) for one, _ in chosen])
    for key, directions in (("after", away), ("random", _random(len(away), away.shape[1], seed))):
        again = _right(seen, _decided(seen, _without(seen.whole, directions)))
        figures |= {f"accuracy_{key}": _share(again), f"against_{key}": _share(again[against])}
    return figures


def _said(figures: dict[str, Any]) -> str:
    if "against_after" not in figures:
        return ""
    share = {key: f"{figures[f'against_{key}']:.0%}" for key in ("before", "after", "random")}
    return (
        f"; of the pictures that speak against the rules' concepts {share['after']} are decided rightly under the "
        f"rules, {share['before']} without, and {share['random']} with directions at random taken out"
    )


def _way(seen: Seen, one: FoundConcept) -> Tensor:
    """How pictures with a concept differ from those without it, among pictures of one class, [width]: the direction
    after whose removal no linear decision tells the two apart by their means."""
    _, wanted = seen.by_class()
    there = present(one)
    ways = []
    for c in wanted.unique().tolist():
        yes, no = seen.whole[(wanted == c) & there], seen.whole[(wanted == c) & ~there]
        if len(yes) and len(no):
            ways.append((yes.mean(0) - no.mean(0)) * min(len(yes), len(no)))
    return F.normalize(torch.stack(ways).sum(0), dim=0)


def _without(rows: Tensor, directions: Tensor) -> Tensor:
    basis = torch.linalg.qr(directions.T).Q
    return rows - rows @ basis @ basis.T


def _random(count: int, width: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def _share(right: Tensor) -> float:
    return round(float(right.float().mean()), 3) if len(right) else 0.0
