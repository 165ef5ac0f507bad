"""Datamodels: what models say of an example, as a linear function of which examples they were trained on.

f(x; S) ≈ f̄(x) + Σ_u w_u(x) (1[u ∈ S] − mean)        by ridge regression over trainings on parts S of the examples

Ilyas et al., "Datamodels: Predicting Predictions from Training Data", ICML 2022, who train hundreds of thousands of
large models. Here many small ones are trained side by side, perceptrons on what the model gets (pictures at twelve
pixels a side), all on the same batches, each on its own part of them. u are sources (all views of a picture together)
and whole classes: among parts that are drawn source by source there is hardly one without a class, and what is gone of
a model then is not the sum of what each source takes away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from conceptguard.making.fit import DECAY, SMOOTHING, moved

# How often a class, and a source of those that remain, is left out; and how much more a class weighs in the regression.
WITHOUT_CLASS, WITHOUT_SOURCE, CLASS = 0.15, 0.2, 2.0
SIDE, WIDTH, BATCH, LR, RIDGE = 12, 96, 96, 1e-2, 5.0


class Sources(NamedTuple):
    """at [n]: the source of each training example; label [sources]: its class."""

    at: Tensor
    label: Tensor

    def of(self, places: Tensor) -> Tensor:
        """Which sources some examples are of, as a whole or in part: [sources] of truth values."""
        found = torch.zeros(len(self.label), dtype=torch.bool)
        found[self.at[places]] = True
        return found


def sources_of(keys: Sequence[str], labels: Tensor) -> Sources:
    """From keys, ``class/style/view`` or ``class/number``: views of the same picture are one source."""
    stems = [key.rsplit("/", 1)[0] if key.count("/") > 1 else key for key in keys]
    place = {stem: i for i, stem in enumerate(dict.fromkeys(stems))}
    at = torch.tensor([place[stem] for stem in stems])
    own = torch.zeros(len(place), dtype=torch.long)
    own[at] = labels.cpu()
    return Sources(at, own)


def features(there: Tensor, sources: Sources) -> Tensor:
    """there [parts, sources], true where a source is in a part -> [parts, sources + classes]: classes are there where
    one of their sources is."""
    classes = F.one_hot(sources.label).float()
    return torch.cat([there.float(), CLASS * (there.float() @ classes > 0).float()], 1)


class Datamodels:
    """logits [trainings, n, classes] of all examples, after trainings on parts, there [trainings, sources]."""

    def __init__(self, logits: Tensor, there: Tensor, sources: Sources):
        self.logits, self.there, self.sources = logits, there, sources

    def said(self, there: Tensor, outputs: Tensor | None = None) -> Tensor:
        """What is predicted of models trained on other parts, there [parts, sources]: [parts, n, classes].

        outputs [trainings, ...]: others of the same trainings than their logits, such as margins
        """
        outputs = self.logits if outputs is None else outputs
        known = features(self.there, self.sources)
        middle = known.mean(0)
        away, asked = known - middle, features(there, self.sources) - middle
        gram = away @ away.T + RIDGE * torch.eye(len(away))
        weights = torch.linalg.solve(gram, away @ asked.T)
        mean = outputs.float().mean(0)
        return mean + torch.einsum("tp,t...->p...", weights, outputs.float() - mean)

    def change(self, gone: Tensor) -> Tensor:
        """What is added to each output where sources, [sources] of truth values, are taken out of all: [n, classes]."""
        without, full = self.said(torch.stack([~gone, torch.ones_like(gone)]))
        return without - full


def train_side_by_side(
    inputs: Tensor, labels: Tensor, sources: Sources, classes: int, trainings: int, epochs: int, seed: int = 0,
    tick: Callable[[int], None] = lambda step: None,
) -> Datamodels:  # fmt: skip
    """Perceptrons with one hidden layer, each without its own random part, and what they say of inputs [n, ...]."""
    random = torch.Generator().manual_seed(seed)
    draw = torch.rand(trainings, len(sources.label), generator=random) > WITHOUT_SOURCE
    kept = torch.rand(trainings, int(sources.label.max()) + 1, generator=random) > WITHOUT_CLASS
    there = draw & kept[:, sources.label]
    mask = there[:, sources.at].to(inputs)
    plain = _seen(inputs)
    middle, spread, width = plain.mean(0), plain.std(0).clamp_min(1e-3), plain.shape[1]
    shapes = ((width, WIDTH), (1, WIDTH), (WIDTH, classes), (1, classes))
    sizes = ((2 / width) ** 0.5, 0.0, WIDTH**-0.5, 0.0)
    own = [(torch.randn(trainings, *shape, generator=random) * size).to(inputs).requires_grad_()
           for shape, size in zip(shapes, sizes)]  # fmt: skip

    def said(some: Tensor) -> Tensor:
        given = ((_seen(some) - middle) / spread).expand(trainings, -1, -1)
        return torch.baddbmm(own[3], F.relu(torch.baddbmm(own[1], given, own[0])), own[2])

    optimiser = torch.optim.AdamW(own, LR, weight_decay=DECAY)
    steps = epochs * -(-len(labels) // BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=steps)
    order = (batch for _ in range(epochs) for batch in torch.randperm(len(labels), generator=random).split(BATCH))
    for step, batch in enumerate(order):
        given = moved(inputs[batch], random) if inputs.ndim == 4 else inputs[batch]
        named = said(given).flatten(0, 1)
        each = F.cross_entropy(named, labels[batch].repeat(trainings), label_smoothing=SMOOTHING, reduction="none")
        weight = mask[:, batch]
        optimiser.zero_grad()
        ((each.view(trainings, -1) * weight).sum(1) / weight.sum(1).clamp_min(1)).sum().backward()
        optimiser.step()
        rate.step()
        tick(step)
    with torch.no_grad():
        return Datamodels(torch.cat([said(part) for part in inputs.split(256)], 1).half().cpu(), there, sources)


def _seen(inputs: Tensor) -> Tensor:
    """What the perceptrons get of inputs: [n, width]."""
    return (F.adaptive_avg_pool2d(inputs, SIDE) if inputs.ndim == 4 else inputs).flatten(1)
