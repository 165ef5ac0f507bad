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
from conceptguard.finder import Found, PictureSet, Search

from .dictionaries import kmeans, spread
from .found import Looking, PictureFinder, concepts, see, told
from .sae import SparseAutoencoder, fit

SUPPRESSED, EXAGGERATED = 0.1, 0.9  # the paper's
SURE = 3.0  # standard errors of a difference below which it is chance
ALIKE = 0.5  # correlation over crops at which two autoencoders read the same
MANY = 4  # archetypes for each direction
LITTLE = 1e-3  # of an archetype that a direction does not begin at


class BlindspotsFindSettings(Looking):
    """real: the class that the other one is compared with; default: the first one's
    few: how many concepts a crop is a sum of; steps: of an autoencoder's training
    runs: how many autoencoders learn, each from another seed; what most of them find is a concept
    """

    real: str = ""
    few: int = Field(default=3, ge=1)
    steps: int = Field(default=2000, ge=1)
    runs: int = Field(default=3, ge=1, le=9)


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
        amounts = agreed([_learnt(search, seen.rows, run) for run in range(s.runs)])
        mean = seen.by_picture(amounts).mean(1)
        apart, sure = _apart(mean, real, _pairs(search.pictures, real))
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


def _learnt(search: Search, rows: Tensor, run: int) -> Tensor:
    """How much of each direction there is in crops, [n, concepts], by one autoencoder."""
    s = search.settings
    random = torch.Generator().manual_seed(search.seed + run)
    with search.bar(s.steps, f", discovering {run + 1} of {s.runs}") as tick:
        model = train(rows, s.concepts, s.few, s.steps, random, tick)
    return model.codes(rows) * model.directions().norm(dim=1)


def agreed(runs: Sequence[Tensor]) -> Tensor:
    """Of amounts [n, k] that several autoencoders read of the same crops, what more than half of them read alike, as
    the mean of these, [n, concepts]: what one of them alone finds is its seed's, not the pictures' (Meinshausen and
    Bühlmann, 2010, "Stability selection")."""
    amounts = torch.cat([one / one.std(0).clamp(min=1e-9) for one in runs], 1)
    of = torch.arange(len(runs)).repeat_interleave(runs[0].shape[1])
    moved = F.normalize(amounts - amounts.mean(0), dim=0)
    alike = moved.T @ moved
    agreeing = torch.stack([alike[:, of == run].amax(1) for run in range(len(runs))]).sum(0)
    free, found = torch.ones(len(of), dtype=torch.bool), []
    for j in agreeing.argsort(descending=True).tolist():
        if not free[j]:
            continue
        same = [j]
        for run in range(len(runs)):
            likest = torch.where((of == run) & free, alike[j], -1.0).max(0)
            if run != of[j] and float(likest.values) >= ALIKE:
                same.append(int(likest.indices))
        free[same] = False
        if 2 * len(same) > len(runs):
            found.append(amounts[:, same].mean(1))
    return torch.stack(found, 1) if found else amounts[:, :0]


def _pairs(pictures: PictureSet, real: Tensor) -> list[tuple[int, int]]:
    """Rows of pictures of one name in both classes, as those of one prompt and seed; none where some have no other."""
    rows: list[dict[str, int]] = [{}, {}]
    for i, (name, of) in enumerate(zip(pictures.names, pictures.classes)):
        rows[not bool(real[i])][name.removeprefix(f"{of}/").removesuffix(f", {of}")] = i
    whole = rows[0].keys() == rows[1].keys() and 2 * len(rows[0]) == len(pictures)
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
    of Λ is longer than 1 (Fel et al., 2025).

    archetypes: A, [many, width]; atoms: how many directions, each of which begins at an archetype of its own
    """

    def __init__(self, archetypes: Tensor, atoms: int, few: int, random: torch.Generator):
        super().__init__(archetypes.shape[1], atoms, few, random)
        self.archetypes: Tensor
        self.register_buffer("archetypes", archetypes)
        # Above zero, where a share learns: one that begins at zero stays there.
        shares = torch.full((atoms, len(archetypes)), LITTLE)
        shares[torch.arange(atoms), spread(archetypes, atoms, random)] = 1
        self.shares = nn.Parameter(shares)
        self.beside, self.size = nn.Parameter(torch.zeros_like(self.encoder)), nn.Parameter(torch.zeros(()))
        del self.decoder
        with torch.no_grad():
            self.encoder.copy_(F.normalize(self.directions(), dim=1))

    def directions(self) -> Tensor:
        """[atoms, width]."""
        shares = self.shares.relu()
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-9)
        beside = self.beside / self.beside.norm(dim=1, keepdim=True).clamp(min=1)
        return self.size.exp() * (shares @ self.archetypes + beside)

    @torch.no_grad()
    def revive(self, dead: Tensor, worst: Tensor) -> None:
        """At the archetypes that are nearest to rows."""
        near = (F.normalize(worst - self.middle, dim=1) @ self.archetypes.T).argmax(1)
        self.shares[dead] = LITTLE
        self.shares[dead, near] = 1
        self.beside[dead], self.bias[dead] = 0, 0
        self.encoder[dead] = F.normalize(self.archetypes[near], dim=1)


def train(
    rows: Tensor, atoms: int, few: int, steps: int, random: torch.Generator, tick: Callable[[int, float], None]
) -> Archetypal:
    """An autoencoder of rows of crops [n, width], whose archetypes are centres of clusters of them."""
    middle = rows.mean(0)
    centres = kmeans(rows - middle, MANY * atoms, random).directions
    model = Archetypal(centres, min(atoms, len(centres)), few, random)
    with torch.no_grad():
        model.middle.copy_(middle)
    fit(model, rows, steps, random, tick)
    return model
