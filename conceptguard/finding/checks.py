"""Three checks that every finder's page makes about itself, with a random finder's result beside it.

After Ramaswamy et al. (2023), "Overlooked factors in concept-based explanations": other pictures give other
explanations, concepts can be harder to learn than the classes that they explain, and nobody looks through more than 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .crops import LEAST, part
from .decides import fit

if TYPE_CHECKING:
    from ..finder import Finder, Found, FoundConcept, PictureSet, Search

MOST_SHOWN = 32
CONTROL = "random_directions"
CHANCE = 8  # of the positives that normalised precision counts where there are no classes: an eighth of the pictures


@dataclass(frozen=True)
class Checks:
    """probe_set: mean cosine of concepts with their nearest ones, found in the other half of the pictures; None where a
    half would be too few pictures
    learnability: mean normalised average precision of a probe for each concept, on pictures kept apart
    classes: the same of the classes, None where there are none
    shown: how many concepts
    """

    finder: str
    probe_set: float | None
    learnability: float
    classes: float | None
    shown: int

    def row(self) -> dict[str, Any]:
        """For a table."""
        return {"finder": self.finder, "probe_set": self.probe_set, "learnability": self.learnability,
                "classes": self.classes, "shown": self.shown, "at_most": MOST_SHOWN}  # fmt: skip


def check(finder: type[Finder], search: Search, found: Found, rows: Tensor) -> Checks:
    """rows: what the encoder says of each picture, [n, width]."""
    pictures = search.pictures
    assert pictures is not None
    labels = torch.stack([present(one) for one in found.concepts], 1) if found.concepts else torch.zeros(len(rows), 0)
    learnt = learnability(rows, labels.float())
    classes = None
    if pictures.sorted:
        names = sorted(set(pictures.classes))
        own = torch.tensor([[one == name for name in names] for one in pictures.classes])
        classes = learnability(rows, own.float())
    return Checks(finder.name, _agreement(finder, search, pictures), learnt, classes, len(found.concepts))


def beside_random(finder: type[Finder], search: Search, found: Found) -> list[Checks]:
    """Of what a finder found, and of what directions at random make of the same pictures."""
    from ..plugins import offers
    from .crops import look

    s = search.settings
    assert search.pictures is not None and search.encoder is not None
    rows = look(search.pictures, search.encoder, s.crop, s.stride).rows.mean(1)
    checks = [check(finder, search, found, rows)]
    control = offers("finders").get(CONTROL)
    if control is not None and control is not finder:
        same = {name: getattr(s, name) for name in control.FindSettings.model_fields if hasattr(s, name)}
        same = {name: value for name, value in same.items() if name not in ("extraction", "importance")}
        again = replace(search, settings=control.FindSettings(**same), label=CONTROL, shown=False)
        checks.append(check(control, again, control.find(again), rows))
    return checks


def present(concept: FoundConcept) -> Tensor:
    """In which pictures it is, [n] of bool."""
    return concept.scores > split(concept.scores)


def split(scores: Tensor) -> float:
    """Where scores [n] fall into two groups that differ most, each even within itself (Otsu, 1979)."""
    ordered = scores.sort().values.double()
    n = torch.arange(1, len(ordered))
    low = ordered.cumsum(0)[:-1] / n
    high = (ordered.sum() - ordered.cumsum(0)[:-1]) / (len(ordered) - n)
    at = int((n * (len(ordered) - n) * (high - low).square()).argmax())
    return float((ordered[at] + ordered[at + 1]) / 2)


def _agreement(finder: type[Finder], search: Search, pictures: PictureSet) -> float | None:
    """Whether each half of the pictures, every class in both, gives the same concepts."""
    order = sorted(range(len(pictures)), key=lambda i: (pictures.classes[i], i))
    halves = [order[0::2], order[1::2]]
    smallest = [min(list(pictures.classes[i] for i in half).count(name) for name in set(pictures.classes))
                for half in halves]  # fmt: skip
    if min(map(len, halves)) < LEAST or min(smallest) < 2:
        return None
    found = []
    for i, half in enumerate(halves):
        mine = replace(search, pictures=part(pictures, half), seed=search.seed + i, shown=False)
        found.append([one.direction for one in finder.find(mine).concepts])
    if not all(found):
        return None
    cosines = torch.stack(found[0]) @ torch.stack(found[1]).T
    return round(float((cosines.amax(0).mean() + cosines.amax(1).mean()) / 2), 3)


def learnability(rows: Tensor, labels: Tensor) -> float:
    """Mean over labels [n, k] of a logistic probe's normalised average precision: every other picture is learnt from,
    the others tell."""
    learn, tell = torch.arange(len(rows)) % 2 == 0, torch.arange(len(rows)) % 2 == 1
    moved = F.normalize(rows - rows.mean(0), dim=1)
    found = []
    for label in labels.T:
        if not 0 < float(label[learn].sum()) < int(learn.sum()) or not float(label[tell].sum()) > 0:
            continue
        weights = fit(moved[learn], label[learn].long(), 2)
        scores = moved[tell] @ (weights[1] - weights[0])
        found.append(normalised_precision(scores, label[tell] > 0.5))
    return round(sum(found) / max(len(found), 1), 3)


def normalised_precision(scores: Tensor, truth: Tensor) -> float:
    """Average precision as if an eighth of the pictures were positive, so that rare and frequent concepts compare.

    Precision at recall r is r N / (r N + false positives) with N = n / 8 (Hoiem et al., 2012).
    """
    order = scores.argsort(descending=True)
    hits = truth[order].float()
    recall = hits.cumsum(0) / hits.sum()
    wrong = (1 - hits).cumsum(0) * (len(hits) - len(hits) / CHANCE) / (1 - hits).sum().clamp(min=1)
    each = recall * len(hits) / CHANCE
    precision = each / (each + wrong).clamp(min=1e-9)
    return float((precision * hits).sum() / hits.sum())


def table(checks: Sequence[Checks]) -> list[dict[str, Any]]:
    """Rows, one for each finder."""
    return [one.row() for one in checks]
