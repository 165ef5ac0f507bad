"""Sparse concept bottleneck (Semenov et al., 2024): of many words the few by which classes are told apart, chosen by
Gumbel gates; and concept matrix search, which tells them apart by all words without any training.

V[i, k] is how near a picture is to a word, T[j, k] how near pictures of a class are; a picture is of the class whose
row of T its row of V is most like. The published losses have no positive pair (one is least for even scores, the
other pairs picture i with word i); here a picture's pair is its own class, through gates.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.finder import Found, FoundConcept, Search

from .found import Looking, PictureFinder, Seen, see, told

TEMPERATURE = 0.1  # of likenesses, as logits
OPEN = 0.5
FROM, TO = 1.0, 0.2  # the Gumbel gates' own temperature, from the first step to the last


class SparseCbmFindSettings(Looking):
    """steps, lr: of the gates' learning; sparsity: weight of how many are open"""

    steps: int = Field(default=400, ge=1)
    lr: float = Field(default=0.05, gt=0)
    sparsity: float = Field(default=3.0, ge=0)


class SparseCbm(PictureFinder):
    """Pictures: of many words the few by which classes of pictures are told apart."""

    name: ClassVar[str] = "sparse_cbm"
    judged: ClassVar[bool] = False  # it looks for what tells classes apart, and not for all that there is
    FindSettings: ClassVar[Any] = SparseCbmFindSettings

    @classmethod
    def find(cls, search: Search) -> Found:
        """Figures: ``accuracy`` by the words that are kept, ``accuracy_all`` by concept matrix search with all words,
        ``accuracy_random`` by as many words at random, on pictures that nothing was learnt from. Raises PolicyError for
        pictures that are not sorted, and without words."""
        s, seen = search.settings, see(search)
        if not seen.decides.classes:
            raise PolicyError("sparse_cbm tells classes apart: give pictures in folders of their classes")
        if len(search.words) < 3:
            raise PolicyError("sparse_cbm chooses among words, and there are none for this encoder: give --words FILE")
        near = likeness(seen)
        names, wanted = seen.by_class()
        learn = torch.arange(seen.n) % 4 != 3
        whole = seen.by_picture(near).amax(1)
        rows = (whole - whole[learn].mean(0)) / whole[learn].std(0).clamp(min=1e-6)
        of_class = class_rows(rows[learn], wanted[learn], len(names))
        random = torch.Generator().manual_seed(search.seed)
        with search.bar(s.steps, ", choosing words") as tick:
            gates = choose(rows[learn], wanted[learn], of_class, s.steps, s.lr, s.sparsity, random, tick)
        kept = [k for k in gates.argsort(descending=True).tolist() if gates[k] > OPEN][: s.shown]
        apart = of_class - of_class.mean(0)
        weight = torch.stack([apart[:, k].abs().max() for k in kept]) if kept else torch.zeros(0)
        found = [
            FoundConcept(
                search.words[k], [(search.words[k], round(float(near[:, k].max()), 3))],
                seen.by_picture(near[:, k] - near[:, k].min()).amax(1),
                seen.crops.maps(seen.by_picture(near[:, k] - near[:, k].min())), seen.names.texts[k],
                float(weight[i] / weight.sum()), names[int(apart[:, k].argmax())],
            )
            for i, k in enumerate(kept)
        ]  # fmt: skip
        found.sort(key=lambda one: -one.importance)
        by_chance = torch.randperm(len(search.words), generator=random)[: max(1, len(kept))].tolist()

        def right(words: list[int] | slice) -> float:
            said = search_matrix(rows[~learn][:, words], of_class[:, words])
            return round(float((said == wanted[~learn]).float().mean()), 3)

        figures = {"accuracy": right(kept) if kept else 0.0, "accuracy_all": right(slice(None)),
                   "accuracy_random": right(by_chance)}  # fmt: skip
        return told(seen, found, f"of {len(search.words)} words, by Gumbel gates", **figures)


def likeness(seen: Seen) -> Tensor:
    """How near each crop is to each word, both as they differ from the mean of theirs, [crops, words]."""
    return F.normalize(seen.rows - seen.names.centre, dim=1) @ seen.names.texts.T


def class_rows(rows: Tensor, wanted: Tensor, classes: int) -> Tensor:
    """T: the mean row of each class, [classes, words]."""
    return torch.stack([rows[wanted == c].mean(0) for c in range(classes)])


def search_matrix(rows: Tensor, of_class: Tensor) -> Tensor:
    """Concept matrix search: the class whose row each picture's is most like, [n]."""
    return (F.normalize(rows, dim=1) @ F.normalize(of_class, dim=1).T).argmax(1)


def gumbel_loss(rows: Tensor, wanted: Tensor, of_class: Tensor, gates: Tensor) -> Tensor:
    """Cross-entropy over classes of how like a picture's gated row is to each class's: its own one is the positive
    pair, all others are negative. gates: [words] in 0 to 1."""
    like = F.normalize(rows * gates, dim=1) @ F.normalize(of_class * gates, dim=1).T
    return F.cross_entropy(like / TEMPERATURE, wanted)


def choose(
    rows: Tensor, wanted: Tensor, of_class: Tensor, steps: int, lr: float, sparsity: float, random: torch.Generator,
    tick: Any = lambda i, x: None,
) -> Tensor:  # fmt: skip
    """How far each word's gate is open after learning, [words] in 0 to 1."""
    logits = torch.zeros(rows.shape[1], requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=lr)
    with torch.enable_grad():
        for step in range(steps):
            heat = FROM + (TO - FROM) * step / steps
            share = torch.rand(len(logits), generator=random).clamp(1e-6, 1 - 1e-6)
            gates = ((logits + share.logit()) / heat).sigmoid()
            loss = gumbel_loss(rows, wanted, of_class, gates) + sparsity * logits.sigmoid().mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            tick(step, float(loss.detach()))
    return logits.detach().sigmoid()
