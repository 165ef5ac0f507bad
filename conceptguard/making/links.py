"""Nets that predict links: what makers and measures ask of one, and training one from scratch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class LinkPredictor(Protocol):
    """A module over a graph of two kinds of nodes. edges [e, 2]: pairs that are linked, by their places."""

    edges: Tensor

    def embedded(self, edges: Tensor | None = None) -> Tensor:
        """Every node, [nodes, width]; messages run along edges, by default along its own."""

    def between(self, embedded: Tensor, pairs: Tensor) -> Tensor:
        """Logits that pairs [n, 2] are linked, [n]."""

    def matching(self, prompts: list[str]) -> Tensor:
        """Which edges a concept means, [e]. Raises PolicyError."""


class LinkRecipe(NamedTuple):
    """epochs: passes over all edges; lr, decay: of Adam"""

    epochs: int = 150
    lr: float = 1e-2
    decay: float = 1e-5


def fit_links(
    net: Any, edges: Tensor, recipe: LinkRecipe, seed: int,
    tick: Callable[[int, float], None] = lambda step, loss: None,
) -> Any:  # fmt: skip
    """Train a net on edges, each beside two pairs that are none: of its keyword and another emoji, and the other way
    round. Gives the net, in evaluation mode."""
    random = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=recipe.lr, weight_decay=recipe.decay)
    net.train()
    for step in range(recipe.epochs):
        embedded = net.embedded(edges)
        none = torch.cat(
            [others(edges, edges, len(net.emoji), random), others(edges, edges, len(net.keywords), random, 1)]
        )
        said = net.between(embedded, edges), net.between(embedded, none)
        loss = F.softplus(-said[0]).mean() + F.softplus(said[1]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        tick(step, float(loss.detach()))
    return net.eval()


def others(pairs: Tensor, edges: Tensor, count: int, random: torch.Generator, side: int = 0) -> Tensor:
    """Pairs with one side drawn anew from ``count``, and drawn again as long as they are edges: [n, 2]."""
    marks, found = edges[:, 0] * 1_000_003 + edges[:, 1], pairs.clone()
    open_ = torch.arange(len(pairs))
    while len(open_):
        found[open_, side] = torch.randint(count, (len(open_),), generator=random).to(found)
        taken = torch.isin(found[open_, 0] * 1_000_003 + found[open_, 1], marks).cpu()
        open_ = open_[taken]
    return found


def named(net: LinkPredictor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Edges that a concept means and those that remain, [f, 2] and [r, 2]. Raises PolicyError as ``matching``."""
    own = net.matching(list(prompts))
    return net.edges[own], net.edges[~own]
