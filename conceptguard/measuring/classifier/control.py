"""The control of a method that forgets: what anybody would try first, a training with random labels."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...making.examples import Examples

STEPS, BATCH, RATE = 60, 32, 5e-4


def relabelled(net: nn.Module, examples: Examples, forget: Tensor, retain: Tensor, seed: int = 0) -> nn.Module:
    """A copy that was trained to name random other classes for what is to be forgotten, and the right ones for as many
    of the rest."""
    own = copy.deepcopy(net).requires_grad_(True)
    random = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(own.parameters(), lr=RATE)
    classes = len(examples.classes)
    for _ in range(STEPS):
        gone, kept = (some[torch.randperm(len(some), generator=random)[:BATCH]] for some in (forget, retain))
        other = torch.randint(1, classes, (len(gone),), generator=random)
        labels = torch.cat([(examples.labels[gone] + other) % classes, examples.labels[kept]])
        first = next(own.parameters())
        loss = F.cross_entropy(own(examples.inputs[torch.cat([gone, kept])].to(first)), labels.to(first.device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return own.requires_grad_(False)
