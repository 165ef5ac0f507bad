"""How finders are judged: on pictures of which it is known what they show, where, and what a decision owes to it.

A concept is right when its amount tells the pictures with something planted from those without it: an area under the
ROC curve of 0.9. An object in one of its styles was planted as well: finding it is no mistake, and an object is found
when it is found in each of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..finder import PictureSet, Search
from .crops import part, read
from .decides import decides
from .pixels import agreement, existence, location, strongest
from .planted import FIRST, GUARDED, OBJECTS, SIDE, STYLES, Planted

if TYPE_CHECKING:
    from ..finder import Finder, Found, FoundConcept
    from ..protocols import PictureEncoder

RIGHT = 0.9
DIFFERS = 0.3  # of the pictures of a class
SHARES = ("recall", "whole", "styles", "precision", "iou", "rank", "there", "where", "how_much", "named")
BARS = {"recall": 0.8, "precision": 0.8}


@dataclass
class Bench:
    """Planted pictures, and what reads them. words: what concepts may be called."""

    planted: Planted
    encoder: PictureEncoder
    words: Sequence[str]
    seed: int = 0
    _effects: dict[tuple[float, float], Tensor] | None = None

    def effects(self, size: float, stride: float, tick: Callable[[int], None] = lambda n: None) -> Tensor:
        """What the decision about a picture loses when each planted thing is really taken away, mean over the pictures
        that have it, [truths]. The decision is the classes', read from the pictures as they are."""
        known = self._effects = self._effects or {}
        if (size, stride) not in known:
            whole = self._whole(self.planted.pictures, size, stride)
            deciding = decides(whole, self.planted.pictures.classes)
            found = []
            for name, there in self.planted.truths.items():
                rows = there.nonzero()[:, 0].tolist()
                without = self._whole(part(self.planted.without(name), rows), size, stride)
                lost = ((whole[rows] - without) * deciding.directions[rows]).sum(1)
                found.append(float(lost.mean()))
                tick(1)
            known[size, stride] = torch.tensor(found)
        return known[size, stride]

    def _whole(self, pictures: PictureSet, size: float, stride: float) -> Tensor:
        return read(pictures, self.encoder, size, stride).rows.mean(1)


def judge(
    finder: type[Finder], bench: Bench, settings: Any, tick: Callable[[int], None] = lambda n: None
) -> dict[str, Any]:
    """One row.

    recall: the share of planted things that concepts tell, whole or in each style; whole: that one concept tells whole;
        styles: the share of the objects in one style that a concept tells
    precision: the share of concepts that tell something planted; iou: where it is; named: objects called by their name
    rank: whether importance orders planted things as really taking them away does
    there, where, how_much: see ``explained``
    """
    read(bench.planted.pictures, bench.encoder, settings.crop, settings.stride)
    begun = time.perf_counter()
    search = Search(None, None, settings, bench.seed, finder.name, False, bench.planted.pictures, bench.encoder,
                    bench.words)  # fmt: skip
    found = finder.find(search)
    seconds = time.perf_counter() - begun
    planted, effects = bench.planted, bench.effects(settings.crop, settings.stride, tick)
    right = None
    if getattr(finder, "compares", False):
        right = rightly(found, planted)
        names = differing(planted)
        effects = effects[[list(planted.truths).index(name) for name in names]]
        planted = replace(planted, truths={name: planted.truths[name] for name in names})
    return {"finder": finder.name, **figures(found, planted, effects, right), "seconds": round(seconds, 2)}


def together(drawings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of several, each of another drawing: means, and the least recall and precision of any."""
    means = {key: round(sum(row[key] for row in drawings) / len(drawings), 3)
             for key, value in drawings[0].items() if isinstance(value, float | int)}  # fmt: skip
    least = {f"{key}_least": min(row[key] for row in drawings) for key in BARS}
    return {"finder": drawings[0]["finder"], **means, **least}


def differing(planted: Planted) -> list[str]:
    """What one class of planted pictures shows far more of than the other, which is all that a finder that compares
    them is to find: what both show is no answer to it."""
    guarded = torch.tensor([one == GUARDED for one in planted.pictures.classes])
    shares = {name: abs(float(there[guarded].float().mean() - there[~guarded].float().mean()))
              for name, there in planted.truths.items()}  # fmt: skip
    return [name for name, share in shares.items() if share >= DIFFERS]


def rightly(found: Found, planted: Planted) -> Tensor:
    """Whether each concept tells something of which the class that it is said to be about is given more, [k] of bool:
    the guarded one of the guarded object and the mark, the kept one of other objects, for which it has more room."""
    things = [(name.split(",")[0], there) for name, there in {**planted.truths, **_in_styles(planted)}.items()]
    things = [(name, there) for name, there in things if name in (*OBJECTS, "mark")]
    right = [any(area(one.scores, there) >= RIGHT and (one.about == GUARDED) == (name in (FIRST, "mark"))
                 for name, there in things) for one in found.concepts]  # fmt: skip
    return torch.tensor(right, dtype=torch.bool)


def figures(found: Found, planted: Planted, effects: Tensor, right: Tensor | None = None) -> dict[str, Any]:
    """The columns of ``judge``. right: which concepts are precise; default: those that tell something planted."""
    truths = {**planted.truths, **_in_styles(planted)}
    names, n = list(truths), len(planted.truths)
    if not found.concepts:
        return dict.fromkeys((*SHARES, "shown"), 0.0)
    areas = torch.stack(
        [torch.tensor([area(one.scores, truth) for truth in truths.values()]) for one in found.concepts]
    )
    best = areas[:, :n].max(0)
    tells = areas.amax(1) >= RIGHT
    # Each concept speaks for what it tells best; one in a style for its object.
    spoken = torch.zeros(n)
    for row, one in enumerate(found.concepts):
        if tells[row]:
            spoken[names.index(names[int(areas[row].argmax())].split(",")[0])] += one.importance
    whole, in_styles = best.values >= RIGHT, areas[:, n:].amax(0) >= RIGHT
    pieces = {name: [j for j, one in enumerate(names[n:]) if one.split(",")[0] == name] for name in names[:n]}
    told = [bool(whole[i]) or (bool(js) and bool(in_styles[js].all())) for i, js in enumerate(pieces.values())]
    chosen = [found.concepts[i] for i in best.indices.tolist()]
    overlaps = [overlap(one, planted.masks[name], planted.truths[name]) for one, name in zip(chosen, names)]
    called = [
        names[i] == one.words[0][0] if one.words else False for i, one in enumerate(chosen) if names[i] in OBJECTS
    ]
    return {
        "recall": round(sum(told) / n, 3), "whole": round(float(whole.float().mean()), 3),
        "styles": round(float(in_styles.float().mean()), 3),
        "precision": round(float((tells if right is None else right).float().mean()), 3),
        "iou": round(sum(overlaps) / n, 3), "rank": round(rank(spoken, effects.abs()), 3),
        "named": round(sum(called) / max(len(called), 1), 3), "shown": len(found.concepts),
        **explained(found, planted, [names[i].split(",")[0] for i in areas.argmax(1).tolist()]),
        **{f"area_{name}": round(float(value), 3) for name, value in zip(names, best.values)},
    }  # fmt: skip


def explained(found: Found, planted: Planted, about: Sequence[str]) -> dict[str, float]:
    """``there``, ``where`` and ``how_much``: of the three concepts that most explain a picture the share that is there,
    the share whose map peaks there, and how far what concepts say of classes is what they have to do with them. about:
    what each concept tells best, of what was planted."""
    scores = torch.stack([one.scores for one in found.concepts], 1)
    truths = torch.stack([planted.masks[name].flatten(1).any(1) for name in about], 1)
    top = strongest(scores, torch.tensor([one.importance for one in found.concepts]))
    guarded = torch.tensor([one == GUARDED for one in planted.pictures.classes])
    relative = scores / scores.amax(0).clamp(min=1e-12)
    says, really = (torch.stack([rows[guarded].mean(0), rows[~guarded].mean(0)]) for rows in (relative, truths.float()))
    found_at = location(top, [one.maps for one in found.concepts], [planted.masks[name] for name in about])
    return {"there": round(existence(top, truths), 3), "where": round(found_at, 3),
            "how_much": round(agreement(says, really), 3)}  # fmt: skip


def _in_styles(planted: Planted) -> dict[str, Tensor]:
    there = {style: planted.masks[style].flatten(1).any(1) for style in STYLES}
    return {f"{name},{style}": planted.truths[name] & there[style] for name in OBJECTS if name in planted.truths
            for style in STYLES if bool((planted.truths[name] & there[style]).any())}  # fmt: skip


def area(scores: Tensor, truth: Tensor) -> float:
    """Under the ROC curve, ties counted half; 0.5 where there is nothing to tell."""
    yes, no = scores[truth], scores[~truth]
    if not len(yes) or not len(no):
        return 0.5
    above = (yes[:, None] > no[None, :]).float() + 0.5 * (yes[:, None] == no[None, :]).float()
    return float(above.mean())


def overlap(one: FoundConcept, masks: Tensor, there: Tensor) -> float:
    """Intersection over union of where a concept is, more than half as much as anywhere in the picture, with where the
    thing is; mean over the pictures that have it."""
    maps = F.interpolate(one.maps[there][:, None], (SIDE, SIDE), mode="bilinear")[:, 0]
    high = maps.flatten(1).amax(1)[:, None, None]
    seen = (maps > high / 2) & (high > 1e-9)
    both, either = (seen & masks[there]).flatten(1).sum(1), (seen | masks[there]).flatten(1).sum(1)
    return float((both / either.clamp(min=1)).mean())


def rank(one: Tensor, other: Tensor) -> float:
    """Spearman's correlation, ties at their mean rank; 0 where one of them is the same everywhere."""
    ranks = [_ranks(values) for values in (one, other)]
    moved = [each - each.mean() for each in ranks]
    size = moved[0].norm() * moved[1].norm()
    return float((moved[0] * moved[1]).sum() / size) if float(size) > 0 else 0.0


def _ranks(values: Tensor) -> Tensor:
    below = (values[:, None] > values[None, :]).float().sum(1)
    same = (values[:, None] == values[None, :]).float().sum(1)
    return below + (same - 1) / 2
