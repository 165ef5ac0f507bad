"""How sure a trained judge may be, and how often it errs: from pictures that it was not trained on.

Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", 2017, https://arxiv.org/abs/1706.04599):
one number divides all logits, so that a judge that says 0.8 is right four times in five. What it names stays the same.
Targets are Platt's, since a judge that is right about all of a few pictures would otherwise be made sure of everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .judge import Judge
from .shares import wilson

# Of the logarithm of the temperature: a few pictures must not make a judge sure of all, or of nothing.
RANGE = (-2.0, 2.0)
BINS = 10


@torch.no_grad()
def calibrate(judge: Judge, pixels: Tensor, labels: Tensor) -> float:
    """Divide the judge's logits of objects by the temperature under which these pictures are likeliest, and give it.

    pixels: [n, 3, size, size] in [0, 1]; labels: [n], places in ``judge.objects``
    """
    logits = judge(pixels)[0].float()
    steps = torch.linspace(*RANGE, 401)
    # Platt's targets: that none of n pictures was named wrongly says that fewer than one in n + 2 are, and no more.
    doubt = 1 / (len(labels) + 2)
    targets = F.one_hot(labels, logits.shape[1]) * (1 - doubt) + doubt / logits.shape[1]
    losses = torch.stack([F.cross_entropy(logits / t.exp(), targets) for t in steps])
    temperature = float(steps[losses.argmin()].exp())
    last = judge.object_head[-1]
    assert isinstance(last, torch.nn.Linear) and last.bias is not None
    last.weight.div_(temperature)
    last.bias.div_(temperature)
    return round(temperature, 4)


def gap(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error: how far said and true shares are apart, 0 to 1. probabilities: [n, classes]."""
    sure, said = probabilities.max(1)
    right = (said == labels).float()
    at = (sure * BINS).long().clamp(max=BINS - 1)
    parts = [(sure[at == b], right[at == b]) for b in range(BINS)]
    return round(sum(float((s.mean() - r.mean()).abs()) * len(s) for s, r in parts if len(s)) / max(len(labels), 1), 4)


def errors(judge: Judge, names: Sequence[str], pixels: Tensor, labels: Tensor) -> dict[str, dict[str, Any]]:
    """Of each class: ``missed``, the share of its pictures that are named otherwise, ``false``, the share of all
    others' that are taken for it, both with the upper end of their 95 % interval, and of how many pictures.
    """
    seen = judge.judge(pixels).objects
    true = [names[label] for label in labels.tolist()]
    found = {}
    for name in names:
        own = [said != name for said, is_ in zip(seen, true) if is_ == name]
        rest = [said == name for said, is_ in zip(seen, true) if is_ != name]
        found[name] = {
            "missed": round(sum(own) / max(len(own), 1), 3), "missed_at_most": wilson(sum(own), len(own))[1],
            "false": round(sum(rest) / max(len(rest), 1), 3), "false_at_most": wilson(sum(rest), len(rest))[1],
            "n": len(own),
        }  # fmt: skip
    return found
