"""Discover, then name (Rao et al., 2024): a sparse autoencoder discovers concepts, the encoder's own text tower names
them, and a linear probe on them decides, so that what a decision owes to each can be read off."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from conceptguard.finder import Found, Search

from .found import Looking, PictureFinder, Seen, concepts, see, shares, told
from .sae import train


class DnCbmFindSettings(Looking):
    """few: how many concepts a crop is a sum of while they are learnt; it is then read with all that fire
    steps: of the autoencoder's training
    probe_steps, sparsity: of the probe, whose weights are drawn to zero
    """

    few: int = Field(default=3, ge=1)
    steps: int = Field(default=2400, ge=1)
    probe_steps: int = Field(default=300, ge=1)
    sparsity: float = Field(default=3e-3, ge=0)


class DnCbm(PictureFinder):
    """Pictures: a sparse autoencoder discovers what they have in common, words name it, a linear probe decides."""

    name: ClassVar[str] = "dn_cbm"
    FindSettings: ClassVar[Any] = DnCbmFindSettings

    @classmethod
    def find(cls, search: Search) -> Found:
        """Raises PolicyError for pictures of which nothing can be told."""
        s = search.settings
        seen = see(search)
        random = torch.Generator().manual_seed(search.seed)
        with search.bar(s.steps, ", discovering") as tick:
            # No more directions than crops: what is left over would be noise beside one that there is.
            model = train(seen.rows, min(s.concepts, len(seen.rows)), s.few, s.steps, random, tick)
        amounts, directions = model.amounts(seen.rows), model.directions()
        names = [seen.names.of(seen.names.centre + row) for row in directions]
        importance, about, right = _decided(seen, amounts, s)
        found = concepts(seen, amounts, importance, about, words=names)
        left = seen.rows - model(seen.rows)[1]
        error = round(float(left.norm() / (seen.rows - seen.rows.mean(0)).norm()), 4)
        return told(seen, found, "by a sparse autoencoder, words and a linear probe", reconstruction_error=error,
                    probe_accuracy=right)  # fmt: skip


def _decided(seen: Seen, amounts: Tensor, settings: Any) -> tuple[Tensor, list[str], float | None]:
    """A share for each concept, the class that it speaks for, and how often the probe is right on pictures that it did
    not learn from."""
    most = seen.by_picture(amounts).amax(1)
    if not seen.decides.classes:
        # Where nothing is to be decided, a concept matters as far as pictures are told apart by it.
        spread = (most.std(0) * (most > 0).any(0)).clamp(min=0)
        return spread / spread.sum().clamp(min=1e-12), [""] * len(spread), None
    assert seen.search.pictures is not None
    classes = list(seen.decides.classes)
    wanted = torch.tensor([classes.index(one) for one in seen.search.pictures.classes])
    scaled = most / most.amax(0).clamp(min=1e-9)
    learn = torch.arange(len(scaled)) % 4 != 3
    weights, bias = _probe(scaled[learn], wanted[learn], len(classes), settings)
    right = ((scaled @ weights.T + bias).argmax(1) == wanted)[~learn].float().mean()
    # What a concept adds in each picture to the picture's own class.
    added = scaled * (weights - weights.mean(0))[wanted]
    importance, about = shares(seen, added)
    return importance, about, round(float(right), 3)


def _probe(rows: Tensor, wanted: Tensor, classes: int, settings: Any) -> tuple[Tensor, Tensor]:
    """Logistic regression whose weights [classes, k] are few: cross-entropy + sparsity · Σ|w|."""
    weights = torch.zeros(classes, rows.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.Adam([weights, bias], lr=0.05)
    even = 1 / torch.bincount(wanted, minlength=classes).clamp(min=1).float()
    for _ in range(settings.probe_steps):
        loss = F.cross_entropy(rows @ weights.T + bias, wanted, weight=even) + settings.sparsity * weights.abs().sum()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    return weights.detach(), bias.detach()
