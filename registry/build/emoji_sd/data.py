"""Views of every trained pair, drawn once and kept in memory (20 MB per thousand at 128 px)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from .render import random_view, render
from .suite import Suite, icon_in, pairs


@dataclass
class Views:
    images: np.ndarray  # uint8 [n, size, size, 3]
    objects: np.ndarray  # index into suite.objects [n]
    styles: np.ndarray  # index into the suite's styles [n]
    tints: list[str | None]


def draw_views(suite: Suite, packs: dict[str, dict], per_pair: int, seed: int, size: int = 128) -> Views:
    """`per_pair` random views of each object x style pair that is not held out."""
    rng = np.random.default_rng(seed)
    order = {o.name: i for i, o in enumerate(suite.objects)}
    styles = list(suite.styles)
    images, objects, style_ids, tints = [], [], [], []
    for obj, style in tqdm(pairs(suite, held_out=False), desc="views", unit="pair"):
        pack = suite.styles[style].pack
        for _ in range(per_pair):
            view, tint = random_view(rng)
            image = render(packs[pack], icon_in(obj, pack), size, view)
            if image is None:
                raise KeyError(f"pack {pack} has no icon {icon_in(obj, pack)!r}")
            images.append(image)
            objects.append(order[obj.name])
            style_ids.append(styles.index(style))
            tints.append(tint)
    return Views(np.stack(images), np.array(objects), np.array(style_ids), tints)
