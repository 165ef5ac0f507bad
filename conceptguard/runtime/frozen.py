"""A model that something else learns beside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for the model's own weights and no dropout meanwhile; everything as it was afterwards."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    training = model.training
    for p in wanted:
        p.requires_grad_(False)
    model.eval()
    try:
        yield
    finally:
        for p in wanted:
            p.requires_grad_(True)
        model.train(training)
