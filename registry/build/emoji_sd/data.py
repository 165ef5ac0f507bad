"""The training set: random scenes of every trained pair, drawn once (50 MB a thousand at 128 px)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from .scenes import Scene, draw, random_scene
from .suite import Suite, pairs


@dataclass
class Views:
    images: np.ndarray  # uint8 [n, size, size, 3]
    scenes: list[Scene]


def scenes(suite: Suite, per_pair: int, seed: int) -> Iterator[tuple[Scene, np.random.Generator]]:
    """`per_pair` scenes around each object x style pair that is not held out, and what draws each the same again."""
    for k, (obj, style) in enumerate(pairs(suite, held_out=False)):
        for i in range(per_pair):
            rng = np.random.default_rng((seed, k, i))
            yield random_scene(suite, style, obj, rng), rng


def in_parts(
    suite: Suite, packs: dict[str, dict], per_pair: int, seed: int, size: int = 128, part: int = 1024
) -> Iterator[Views]:
    """`per_pair` random views of each object x style pair that is not held out, so many at a time."""
    wanted = list(scenes(suite, per_pair, seed))
    bar = tqdm(total=len(wanted), desc="views", unit="view", mininterval=5)
    for at in range(0, len(wanted), part):
        some = wanted[at : at + part]
        images = np.empty((len(some), size, size, 3), np.uint8)
        for i, (scene, rng) in enumerate(some):
            images[i] = draw(suite, packs, scene, rng, size)
            bar.update()
        yield Views(images, [scene for scene, _ in some])
    bar.close()


def draw_views(suite: Suite, packs: dict[str, dict], per_pair: int, seed: int, size: int = 128) -> Views:
    """All of them at once."""
    (all_of_them,) = in_parts(suite, packs, per_pair, seed, size, part=10**9)
    return all_of_them
