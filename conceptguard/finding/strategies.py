"""The strategic cluster graph: which concept decides which pictures, and how often that is right.

Fel et al., 2023, "A holistic approach to unifying automatic concept extraction and concept importance estimation": each
picture belongs to the concept that decided most about it. A concept that many pictures hang on and that is often wrong
is what to look at first. Theirs lays pictures out by UMAP; here by the two main axes of their importance vectors, which
are the same on every run.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..finder import Strategies, Strategy

WIDTH, HEIGHT, EDGE, LARGEST = 720, 400, 60, 34  # of the drawing, in its own units


def strategies(names: Sequence[str], importance: Tensor, right: Tensor) -> Strategies:
    """names: of the concepts; importance: of each for each picture, [n, k]; right: which are decided rightly, [n]"""
    decided = importance.argmax(1)
    places = _laid_out(importance)
    found = []
    for k in decided.unique().tolist():
        mine = decided == k
        x, y = places[mine].mean(0).tolist()
        rows = mine.nonzero()[:, 0].tolist()
        found.append(Strategy(names[k], rows, len(rows) / len(decided), float(right[mine].float().mean()), (x, y)))
    return Strategies(sorted(found, key=lambda one: -one.prevalence), places)


def _laid_out(importance: Tensor) -> Tensor:
    """[n, 2], near where the same concepts count. Places are ranks on each axis, as a few pictures that are like no
    other would leave all others in a heap."""
    moved = F.normalize(importance, dim=1)
    moved = moved - moved.mean(0)
    places = moved @ torch.linalg.svd(moved, full_matrices=False).Vh[:2].T
    places = torch.cat([places, places.new_zeros(len(places), 2 - places.shape[1])], 1)  # of a single concept
    return places.argsort(0).argsort(0) / max(1, len(places) - 1)


def drawn(graph: Strategies) -> str:
    """As SVG: small dots are pictures, circles concepts, as large as the share of pictures that they decide, green
    where they are right, red where they are wrong."""
    dots = "".join(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="2"/>' for x, y in map(_on_paper, graph.places.tolist()))
    shown = "".join(_circle(one) for one in graph.strategies)
    return (
        f'<svg id="strategies" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Which concept decides which '
        f'pictures"><g class="dots">{dots}</g>{shown}</svg>'
    )


def _on_paper(at: Sequence[float]) -> tuple[float, float]:
    return EDGE + at[0] * (WIDTH - 2 * EDGE), EDGE + at[1] * (HEIGHT - 2 * EDGE)


def _circle(one: Strategy) -> str:
    x, y = _on_paper(one.at)
    name = html.escape(one.concept)
    told = f"decides {one.prevalence:.0%} of the pictures, {one.reliability:.0%} of these rightly"
    return (
        f'<g><circle cx="{x:.0f}" cy="{y:.0f}" r="{LARGEST * one.prevalence**0.5:.1f}" '
        f'fill="hsl({120 * one.reliability:.0f} 55% 45%)" fill-opacity="0.7"/>'
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{name}</text>'
        f"<title>{name}: {told}</title></g>"
    )
