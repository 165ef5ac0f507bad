"""Conceptual blindspots (Bohacek et al., 2025): what one set of pictures shows more or less of than another.

An archetypal sparse autoencoder (Fel et al., 2025), whose directions are mixtures of what there really is in the
pictures, reads both sets. Generated against real pictures it shows what a model suppresses or exaggerates; under a
policy against without it, what the policy changed, also where nobody asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from conceptguard.errors import PolicyError
from conceptguard.finder import Found, Search

from .dictionaries import kmeans
from .found import Looking, PictureFinder, concepts, see, told
from .sae import SparseAutoencoder

SUPPRESSED, EXAGGERATED = 0.1, 0.9  # the paper's
SURE = 3.0  # standard errors of a difference below which it is chance


class BlindspotsFindSettings(Looking):
    """real: the class that the other one is compared with; default: the first one's
    few: how many concepts a crop is a sum of; steps: of the autoencoder's training
    """

    concepts: int = Field(default=40, ge=1)
    real: str = ""
    few: int = Field(default=5, ge=1)
    steps: int = Field(default=1000, ge=1)


class Blindspots(PictureFinder):
    """Pictures: compares two classes of them, such as real and generated: what is shown less, what is shown more."""

    name: ClassVar[str] = "blindspots"
    compares: ClassVar[bool] = True  # what both sets show is nothing to it
    FindSettings: ClassVar[Any] = BlindspotsFindSettings

    @classmethod
    def find(cls, search: Search) -> Found:
        """The largest differences first. A row's ``delta`` is σ of the difference in standard deviations of the real
        pictures: 0.5 is none, below 0.1 it is suppressed, above 0.9 exaggerated. Raises PolicyError for other than two
        classes."""
        s = search.settings
        seen = see(search)
        assert search.pictures is not None
        classes = [one for one in dict.fromkeys(search.pictures.classes) if one]
        if len(classes) != 2 or (s.real and s.real not in classes):
            raise PolicyError(
                f"blindspots compares two classes of pictures, and these are of {len(classes)} "
                f"({', '.join(classes) or 'not sorted'}): give a folder with two folders in it, and real=NAME of one"
            )
        real = torch.tensor([one == (s.real or classes[0]) for one in search.pictures.classes])
        random = torch.Generator().manual_seed(search.seed)
        with search.bar(s.steps, ", discovering") as tick:
            model = train(seen.rows, s.concepts, s.few, s.steps, random, tick)
        amounts = model.codes(seen.rows)
        mean = seen.by_picture(amounts).mean(1)
        apart, sure = _apart(mean, real, _pairs(search.pictures.names, real))
        importance = torch.where(sure, apart.abs(), 0.0)
        share = importance / importance.sum().clamp(min=1e-12)
        other = next(one for one in classes if one != (s.real or classes[0]))
        about = [other if value > 0 else (s.real or classes[0]) for value in apart.tolist()]
        kept = share.argsort(descending=True)[: int((share > 0).sum())]
        found = concepts(seen, amounts[:, kept], share[kept], [about[i] for i in kept.tolist()])
        result = told(seen, found, f"{int(sure.sum())} of {len(share)} differ between {' and '.join(classes)}")
        deltas = apart[kept].sigmoid().tolist()
        rows = [{**row, "delta": round(delta, 3), "shown": _said(delta)} for row, delta in zip(result.rows, deltas)]
        return Found(rows, result.told, result.figures, found)


def _pairs(names: Sequence[str], real: Tensor) -> list[tuple[int, int]]:
    """Rows of pictures of one name in both classes, as those of one prompt and seed; none where some have no other."""
    rows: list[dict[str, int]] = [{}, {}]
    for i, name in enumerate(names):
        rows[not bool(real[i])][name.partition("/")[2] or name] = i
    whole = rows[0].keys() == rows[1].keys() and 2 * len(rows[0]) == len(names)
    return [(i, rows[1][name]) for name, i in rows[0].items()] if whole else []


def _apart(mean: Tensor, real: Tensor, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Differences of means [k] in standard deviations of the real pictures, and which are more than chance: of pairs,
    whose differences are small where nothing was changed, far smaller ones are."""
    one, other = mean[real], mean[~real]
    if pairs:
        each = mean[[second for _, second in pairs]] - mean[[first for first, _ in pairs]]
        error = (each.var(0) / len(each)).sqrt().clamp(min=1e-9)
    else:
        error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt().clamp(min=1e-9)
    spread = one.std(0).clamp(min=mean.std(0) / 4).clamp(min=1e-6)
    difference = other.mean(0) - one.mean(0)
    return difference / spread, difference.abs() / error > SURE


def _said(delta: float) -> str:
    return (
        "suppressed"
        if delta < SUPPRESSED
        else "exaggerated"
        if delta > EXAGGERATED
        else "less"
        if delta < 0.5
        else "more"
    )


class Archetypal(SparseAutoencoder):
    """Directions D = exp(m) · (W A + Λ): A are centres of the data, W's rows are shares that add up to one, and no row
    of Λ is longer than 1 (Fel et al., 2025)."""

    def __init__(self, archetypes: Tensor, few: int, random: torch.Generator):
        super().__init__(archetypes.shape[1], len(archetypes), few, random)
        self.archetypes: Tensor
        self.register_buffer("archetypes", archetypes)
        self.shares = nn.Parameter(torch.eye(len(archetypes)))
        self.beside, self.size = nn.Parameter(torch.zeros_like(archetypes)), nn.Parameter(torch.zeros(()))
        del self.decoder

    def directions(self) -> Tensor:
        """[atoms, width]."""
        shares = self.shares.relu()
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-9)
        beside = self.beside / self.beside.norm(dim=1, keepdim=True).clamp(min=1)
        return self.size.exp() * (shares @ self.archetypes + beside)


def train(
    rows: Tensor, atoms: int, few: int, steps: int, random: torch.Generator, tick: Callable[[int, float], None]
) -> Archetypal:
    """Mean squared error on rows of crops, from clusters' centres on."""
    middle = rows.mean(0)
    centres = kmeans(rows - middle, atoms, random).directions
    model = Archetypal(centres, few, random)
    with torch.no_grad():
        model.middle.copy_(middle)
        model.encoder.copy_(F.normalize(centres, dim=1))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    scale = rows.sub(middle).square().mean()
    for step in range(steps):
        some = rows[torch.randint(len(rows), (min(512, len(rows)),), generator=random)]
        loss = (some - model(some)[1]).square().mean() / scale
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        tick(step, float(loss.detach()))
    return model.eval().requires_grad_(False)
