"""KLOM: how far the margins that a method's models have are from those of models that were trained without.

KL( unlearned ‖ retrained ) of each example's margins, both as histograms over N models on the same bins

Of Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching" (arXiv 2410.23232), which has a
hundred models on either side, twenty bins and margins clipped at ±100. What differs here: an example's bins are of
equal width from the least to the greatest of its margins on both sides, both inclusive (their code has the greatest
fall out of the last one); of eight bins by default, for some twenty models; and an empty bin has ``EMPTY`` models'
share, after which shares are made to sum to one again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CLIP, EMPTY = 100.0, 1e-5


def klom(own: Tensor, retrained: Tensor, bins: int = 8) -> Tensor:
    """Of every example, in nats, [n].

    own [models, n], retrained [models, n]: margins. Raises ValueError where a side has fewer than two models, or a
    margin is no number.
    """
    if min(len(own), len(retrained)) < 2:
        raise ValueError(f"a distribution takes two models or more on either side: {len(own)} and {len(retrained)}")
    both = torch.cat([own, retrained]).double()
    if not bool(both.isfinite().all()):
        raise ValueError("a margin is no number: a model gave none")
    both = both.clamp(-CLIP, CLIP)
    low, high = both.min(0).values, both.max(0).values
    at = ((both - low) / (high - low).clamp_min(1e-12) * bins).long().clamp_max(bins - 1)
    counted = torch.nn.functional.one_hot(at, bins).double()
    p, q = (_shares(part) for part in counted.split([len(own), len(retrained)]))
    return (p * (p / q).log()).sum(1)


def _shares(counted: Tensor) -> Tensor:
    """[models, n, bins] -> [n, bins]."""
    found = counted.mean(0) + EMPTY
    return found / found.sum(1, keepdim=True)


@dataclass
class Spread:
    """mean and p95: KLOM's mean and 95th percentile over examples; error: how far other models would move the mean."""

    mean: float
    p95: float
    error: float


def klom_over(own: Tensor, retrained: Tensor, bins: int = 8) -> Spread:
    """KLOM over examples. Its error is the delete-one jackknife's over the models of both sides: a bootstrap leaves out
    a third of them, which empties bins, and tells an error several times too large where both sides are alike.

    Raises ValueError as ``klom``, and where a side has fewer than three models.
    """
    if min(len(own), len(retrained)) < 3:
        raise ValueError(f"an error takes three models or more on either side: {len(own)} and {len(retrained)}")
    found = klom(own, retrained, bins)
    variance = 0.0
    for side, other in ((own, retrained), (retrained, own)):
        rest = [torch.cat([side[:i], side[i + 1 :]]) for i in range(len(side))]
        means = torch.stack([klom(*((one, other) if side is own else (other, one)), bins).mean() for one in rest])
        variance += (len(side) - 1) * float(means.var(unbiased=False))
    return Spread(float(found.mean()), float(found.quantile(0.95)), variance**0.5)
