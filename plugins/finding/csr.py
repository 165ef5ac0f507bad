"""CSR (Huy et al., 2025): concepts as prototypes of patches, which a person points at, and the model is corrected.

A concept's prototypes are learnt from what its map gathers in pictures that have it, apart from all other concepts'; a
picture has as much of a prototype as its most like patch. A person says where a concept is, or is not, or that it is to
have no part in the decision. The paper's code is not published: temperatures, margin and what counts outside of boxes
are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.finder import Found, Search
from conceptguard.finding.checks import present
from conceptguard.finding.decides import fit

from .found import MOST, Looking, PictureFinder, see, told
from .lens import factors

HEAT, MARGIN, ELSEWHERE = 10.0, 0.3, 0.5  # γ, δ, and α: what patches outside of every box count
STEPS = 60


class CsrFindSettings(Looking):
    """prototypes: of each concept
    rejected: concepts that are to have no part in the decision, which is learnt again without them
    boxes: PICTURE: CONCEPT: yes (or no): LEFT TOP RIGHT BOTTOM, in shares of a side: where it is, and where it is not
    """

    concepts: int = Field(default=24, ge=1, le=MOST)
    prototypes: int = Field(default=4, ge=1)
    rejected: list[str] = []
    boxes: list[str] = []


class Csr(PictureFinder):
    """Pictures: concepts as prototypes of patches; a person points, and the decision is corrected."""

    name: ClassVar[str] = "csr"
    judged: ClassVar[bool] = False  # its concepts are those of lens
    FindSettings: ClassVar[Any] = CsrFindSettings

    @classmethod
    def find(cls, search: Search) -> Found:
        """Figures: ``accuracy`` on pictures that nothing was learnt from, ``after`` as it is corrected, and
        ``random`` with as many other concepts rejected. Raises PolicyError for pictures that are not sorted, and for
        what is said of no such concept."""
        s, seen = search.settings, see(search)
        if not seen.decides.classes:
            raise PolicyError("csr decides between classes: give pictures in folders of their classes")
        learn = torch.arange(seen.n) % 2 == 0
        found = [one for one in factors(search, seen, s.concepts) if _tells(present(one)[learn])]
        if not found:
            raise PolicyError("nothing was found that some of the pictures have and others lack: give more pictures")
        names = [one.name for one in found]
        rejected = [_named(name, names, "rejected") for name in s.rejected]
        assert search.pictures is not None
        boxes = _boxes(s.boxes, list(search.pictures.names), names, seen.crops.boxes)
        there = torch.stack([present(one) for one in found], 1)
        patches = F.normalize(seen.crops.rows - seen.names.centre, dim=2)
        model = learnt(patches[learn], there[learn].float(), s.prototypes, search.seed)
        classes, wanted = seen.by_class()
        maps = model.maps(patches)
        scores = maps.amax(2)  # [n, concepts, prototypes]

        def right(given: Tensor, without: Sequence[int] = ()) -> Tensor:
            use = torch.ones(len(found))
            use[list(without)] = 0.0
            moved = (given - scores[learn].mean(0)) * use[:, None]
            weights = fit(moved[learn].flatten(1), wanted[learn], len(classes))
            return (moved.flatten(1) @ weights.T).argmax(1) == wanted

        bare = right(scores)
        after = right(pointed(maps, boxes).amax(2), rejected)
        figures = {"accuracy": _share(bare[~learn]), "after": _share(after[~learn])}
        if rejected:
            others = [k for k in range(len(found)) if k not in rejected]
            random = torch.Generator().manual_seed(search.seed)
            drawn = [others[i] for i in torch.randperm(len(others), generator=random)[: len(rejected)].tolist()]
            figures["random"] = _share(right(scores, drawn)[~learn])
        # Where a concept is, is where its prototypes are.
        where = maps.amax(3)
        shown = [replace(one, maps=seen.crops.maps(where[:, k] - where[:, k].min())) for k, one in enumerate(found)]
        return told(seen, shown, "as prototypes of patches", **figures)


@dataclass
class Prototypes:
    """project: [width, width]; ways: of each concept's prototypes, [concepts, prototypes, width]"""

    project: Tensor
    ways: Tensor

    def maps(self, patches: Tensor) -> Tensor:
        """How like each patch [n, places, width] is to each prototype: [n, concepts, places, prototypes]."""
        given = F.normalize(patches @ self.project, dim=2)
        return torch.einsum("nph,kmh->nkpm", given, F.normalize(self.ways, dim=2))


def learnt(patches: Tensor, labels: Tensor, prototypes: int, seed: int) -> Prototypes:
    """Concepts' maps by their labels [n, concepts] alone, then prototypes of what the maps gather."""
    random = torch.Generator().manual_seed(seed)
    width, count = patches.shape[2], labels.shape[1]
    # Both begin where data are: what pictures with a concept have more of than those without it, and what maps gather.
    mean = patches.mean(1)
    heads = torch.stack([mean[one].mean(0) - mean[~one].mean(0) for one in labels.bool().T], 1)
    heads = F.normalize(heads, dim=0).requires_grad_()
    least = torch.zeros(count, requires_grad=True)

    def gathered() -> tuple[Tensor, Tensor]:
        each = patches @ heads
        share = (HEAT * each).softmax(1)
        return (share * each).sum(1), torch.einsum("npk,npw->nkw", share, patches)

    def seen_or_not() -> Tensor:
        return F.binary_cross_entropy_with_logits(HEAT * (gathered()[0] - least), labels)

    _descend([heads, least], seen_or_not, 3e-3)
    vectors = gathered()[1].detach()
    project = torch.eye(width).requires_grad_()
    near = torch.stack([vectors[one, k].mean(0) for k, one in enumerate(labels.bool().T)])[:, None]
    ways = near + near.norm(dim=2, keepdim=True) * torch.randn(count, prototypes, width, generator=random) / width**0.5
    ways = ways.requires_grad_()
    rows, own = labels.bool().nonzero().T
    others, absent = (~labels.bool()).nonzero().T

    def likeness(rows: Tensor, own: Tensor) -> Tensor:
        mine = F.normalize(vectors[rows, own] @ project, dim=1)
        like = torch.einsum("ih,kmh->ikm", mine, F.normalize(ways, dim=2))
        return ((HEAT * like).softmax(2) * like).sum(2)

    def apart() -> Tensor:
        # The margin: another concept's prototypes are to be less like by that much, and no more is asked. What a map
        # gathers where the concept is not is to be unlike its prototypes as well: a patch may be of no concept.
        beside = likeness(rows, own) + MARGIN * (1 - F.one_hot(own, count))
        there = likeness(rows, own).gather(1, own[:, None])
        nowhere = likeness(others, absent).gather(1, absent[:, None])
        wrong = F.softplus(HEAT * (MARGIN - there)).mean() + F.softplus(HEAT * (nowhere + MARGIN)).mean()
        return F.cross_entropy(HEAT * beside, own) + wrong

    _descend([project, ways], apart, 1e-3)
    return Prototypes(project.detach(), ways.detach())


def pointed(maps: Tensor, boxes: Mapping[tuple[int, int], Sequence[tuple[bool, Tensor]]]) -> Tensor:
    """Maps as a person corrects them. boxes: of (picture, concept) whether it is there, and which patches, [places]."""
    found = maps.clone()
    for (i, k), said in boxes.items():
        weight = torch.full((maps.shape[2],), ELSEWHERE if any(yes for yes, _ in said) else 1.0)
        for yes, patches in sorted(said, key=lambda one: not one[0]):
            weight[patches] = float(yes)
        found[i, k] = torch.where(weight[:, None] > 0, maps[i, k] * weight[:, None], maps[:, k].min())
    return found


def _descend(parameters: list[Tensor], loss: Any, lr: float) -> None:
    optimiser = torch.optim.Adam(parameters, lr=lr)
    with torch.enable_grad():
        for _ in range(STEPS):
            optimiser.zero_grad()
            torch.autograd.backward(loss())
            optimiser.step()


def _boxes(
    said: Sequence[str], pictures: list[str], names: list[str], places: Tensor
) -> dict[tuple[int, int], list[tuple[bool, Tensor]]]:
    """Raises PolicyError."""
    found: dict[tuple[int, int], list[tuple[bool, Tensor]]] = {}
    middles = (places[:, :2] + places[:, 2:]) / 2
    for line in said:
        parts_of = [part.strip() for part in line.split(":")]
        numbers = parts_of[-1].split()
        try:
            picture, name, answer, (left, top, right, bottom) = *parts_of[:3], map(float, numbers)
            there = {"yes": True, "no": False}[answer]
            i = pictures.index(picture)
        except (ValueError, KeyError):
            raise PolicyError(
                f"boxes '{line}': write PICTURE: CONCEPT: yes (or no): LEFT TOP RIGHT BOTTOM, in shares of a side; "
                f"pictures are {', '.join(pictures[:3])} and so on"
            ) from None
        inside = (middles >= torch.tensor([left, top])).all(1) & (middles <= torch.tensor([right, bottom])).all(1)
        found.setdefault((i, _named(name, names, "boxes")), []).append((there, inside))
    return found


def _tells(there: Tensor) -> bool:
    """Whether pictures [n] of bool have something to learn a concept from: some that show it and some that do not."""
    return bool(there.any()) and not bool(there.all())


def _named(name: str, names: list[str], what: str) -> int:
    if name not in names:
        raise PolicyError(f"{what} '{name}': nothing of that name was found: {', '.join(names[:8])}")
    return names.index(name)


def _share(right: Tensor) -> float:
    return round(float(right.float().mean()), 3) if len(right) else 0.0
