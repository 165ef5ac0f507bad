"""Energy-based concept bottleneck (Xu et al., 2024): pictures, concepts and classes under one energy, so that what a
person says of one concept moves its relatives and the class.

Three energies: of a picture with a class, of a picture with each concept, of all concepts with a class. What is not
observed is found by descent on their sum. In the published code concepts enter the third one through a threshold, which
lets no gradient through, so that a correction moves nothing else; here they enter as mixtures, as the paper has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from conceptguard.errors import PolicyError
from conceptguard.finder import Found, Search
from conceptguard.finding.checks import present

from .found import MOST, Looking, PictureFinder, see, told
from .lens import factors

HIDDEN, STEPS, DESCENTS = 64, 300, 120
WEIGHTS = (1.0, 1.0, 1.0)  # of the three energies, in descent
SAYS = {"yes": 1.0, "no": 0.0}


class Energies(nn.Module):
    """width: of pictures' rows; concepts, classes: how many"""

    def __init__(self, width: int, concepts: int, classes: int):
        super().__init__()
        self.picture = nn.Linear(width, HIDDEN)
        self.of_class = nn.Parameter(torch.randn(classes, HIDDEN))
        self.of_concept = nn.Parameter(torch.randn(concepts, 2, HIDDEN))
        self.together = nn.Linear(concepts * HIDDEN, HIDDEN)
        self.ends = nn.ModuleList(nn.Linear(HIDDEN, 1) for _ in range(3))

    def class_energies(self, rows: Tensor) -> Tensor:
        """Of each class with pictures [n, width]: [n, classes]."""
        return self._energy(0, self.picture(rows)[:, None], self.of_class)

    def concept_energies(self, rows: Tensor) -> Tensor:
        """Of each concept's absence and presence: [n, concepts, 2]."""
        return self._energy(1, self.picture(rows)[:, None, None], self.of_concept)

    def joint_energies(self, shares: Tensor) -> Tensor:
        """Of each class with concepts that are there to shares [n, concepts] of 0 to 1: [n, classes]."""
        ways = F.normalize(self.of_concept, dim=2)
        mixed = shares[..., None] * ways[:, 1] + (1 - shares[..., None]) * ways[:, 0]
        return self._energy(2, self.together(mixed.flatten(1))[:, None], self.of_class)

    def _energy(self, end: int, given: Tensor, ways: Tensor) -> Tensor:
        found: Tensor = self.ends[end]((given + given * F.normalize(ways, dim=-1)).relu()).squeeze(-1)
        return found


def fit(rows: Tensor, labels: Tensor, wanted: Tensor, classes: int, seed: int) -> Energies:
    """Negative log-likelihood under each energy. labels: [n, concepts] of 0 and 1; wanted: the classes, [n]."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model = Energies(rows.shape[1], labels.shape[1], classes)
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
        for _ in range(STEPS):
            # Some concepts are said wrongly now and then, or the third energy would rely on each of them.
            said = torch.where(torch.rand(labels.shape) < 0.1, 1 - labels, labels)
            loss = (
                F.cross_entropy(-model.class_energies(rows), wanted)
                + F.cross_entropy(-model.concept_energies(rows).flatten(0, 1), labels.flatten().long())
                + F.cross_entropy(-model.joint_energies(said), wanted)
            )
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
    return model.eval().requires_grad_(False)


def infer(
    model: Energies,
    rows: Tensor,
    said: Mapping[int, float] | None = None,
    weights: tuple[float, float, float] = WEIGHTS,
    hard: bool = False,
) -> tuple[Tensor, Tensor]:
    """Shares of concepts [n, concepts] and of classes [n, classes] of least energy. said: concepts that are known.

    hard: as the published code has it, concepts reach the third energy through a threshold
    """
    said = said or {}
    n, concepts = len(rows), model.of_concept.shape[0]
    loose = torch.zeros(n, concepts, requires_grad=True)
    classes = torch.zeros(n, model.of_class.shape[0], requires_grad=True)
    own, each = model.class_energies(rows), model.concept_energies(rows)
    optimiser = torch.optim.Adam([loose, classes], lr=0.1)
    known = torch.full((concepts,), float("nan"))
    for k, value in said.items():
        known[k] = value

    def shares() -> Tensor:
        return torch.where(known.isnan(), loose.sigmoid(), known.nan_to_num())

    with torch.enable_grad():
        for _ in range(DESCENTS):
            there, which = shares(), classes.softmax(1)
            joint = model.joint_energies((there > 0.5).float() if hard else there)
            energy = (
                weights[0] * (which * own).sum()
                + weights[1] * (there * each[..., 1] + (1 - there) * each[..., 0]).sum()
                + weights[2] * (which * joint).sum()
                # Entropies keep shares between 0 and 1, so that they are probabilities and no mere choice.
                - _entropy(torch.stack([there, 1 - there], -1)) - _entropy(which)
            )  # fmt: skip
            optimiser.zero_grad()
            torch.autograd.backward(energy)
            optimiser.step()
    return shares().detach(), classes.softmax(1).detach()


def _entropy(shares: Tensor) -> Tensor:
    return -(shares * shares.clamp(min=1e-6).log()).sum()


class EcbmFindSettings(Looking):
    """said: CONCEPT: yes, or CONCEPT: no, for each concept that is known of all pictures"""

    concepts: int = Field(default=24, ge=1, le=MOST)
    said: list[str] = []


class Ecbm(PictureFinder):
    """Pictures: found concepts and classes under one energy: what is said of one concept moves its relatives."""

    name: ClassVar[str] = "ecbm"
    judged: ClassVar[bool] = False  # its concepts are those of lens
    FindSettings: ClassVar[Any] = EcbmFindSettings

    @classmethod
    def find(cls, search: Search) -> Found:
        """Rows: ``share``, the mean probability of a concept; ``moved``, by how much what was said changes it. Raises
        PolicyError for pictures that are not sorted, and for what is said of a concept that was not found."""
        s = search.settings
        seen = see(search)
        if not seen.decides.classes:
            raise PolicyError("ecbm relates concepts to classes: give pictures in folders of their classes")
        found = factors(search, seen, s.concepts)
        said = dict(_said(rule, [one.name for one in found]) for rule in s.said)
        labels = torch.stack([present(one) for one in found], 1).float()
        names, wanted = seen.by_class()
        rows = F.normalize(seen.whole - seen.decides.centre, dim=1)
        model = fit(rows, labels, wanted, len(names), search.seed)
        there, which = infer(model, rows)
        after, other = infer(model, rows, said) if said else (there, which)
        figures = {f"{key}_{name}": round(share, 3) for key, classes in (("share", which), ("said", other))
                   for name, share in zip(names, classes.mean(0).tolist())}  # fmt: skip
        result = told(seen, found, "under one energy with their classes", **figures)
        moved = (after - there).mean(0).tolist()
        more = [{**row, "share": round(share, 3), "moved": round(by, 3)}
                for row, share, by in zip(result.rows, there.mean(0).tolist(), moved)]  # fmt: skip
        return Found(more, result.told, result.figures, found)


def _said(rule: str, names: list[str]) -> tuple[int, float]:
    name, _, answer = (part.strip() for part in rule.rpartition(":"))
    if name not in names or answer not in SAYS:
        raise PolicyError(f"said '{rule}': write CONCEPT: yes or CONCEPT: no, of one of {', '.join(names[:8])}")
    return names.index(name), SAYS[answer]
