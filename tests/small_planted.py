"""Planted pictures for tests, drawn once in a process, and the embedded encoder."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from conceptguard.finder import FoundConcept, Search
from conceptguard.finding.encoders import EMBEDDED, load_encoder, words_for
from conceptguard.finding.planted import Planted, plant
from conceptguard.plugins import offers
from conceptguard.testing import embedded_model

STEPS = 10


@cache
def planted() -> Planted:
    """48 pictures, those that finders are compared on."""
    return plant(embedded_model(), 48, "tune", STEPS)


@cache
def encoder() -> Any:
    """The one that ships."""
    return load_encoder()


def search(name: str, pictures: Any = None, words: bool = True, **settings: Any) -> Search:
    """What a finder is asked."""
    chosen = offers("finders")[name].FindSettings(**settings)
    said = words_for(EMBEDDED) if words else []
    return Search(
        None, None, chosen, 0, name, False, planted().pictures if pictures is None else pictures, encoder(), said
    )


def found(name: str, **settings: Any) -> Any:
    """What a finder finds in the planted pictures."""
    return offers("finders")[name].find(search(name, **settings))


def oracle(truth: torch.Tensor, mask: torch.Tensor, name: str, importance: float) -> FoundConcept:
    """A concept as somebody would find it who knows."""
    small = torch.nn.functional.adaptive_max_pool2d(mask[:, None].float(), 16)[:, 0]
    return FoundConcept(name, [(name, 1.0)], truth.float(), small, torch.zeros(8), importance)
