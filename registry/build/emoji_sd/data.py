"""The training set: random scenes of every trained pair, drawn once (50 MB a thousand at 128 px), on all cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from tqdm import tqdm

from .scenes import TWO, Scene, draw, random_scene
from .suite import Suite, pairs

FEW = 2_000  # views that are drawn sooner than other processes have started
CHUNK = 32

Wanted = tuple[Scene, np.random.Generator]


@dataclass
class Views:
    images: np.ndarray  # uint8 [n, size, size, 3]
    scenes: list[Scene]


def scenes(suite: Suite, per_pair: int, seed: int, two: float = TWO) -> Iterator[Wanted]:
    """`per_pair` scenes around each object x style pair that is not held out, and what draws each the same again.

    two: share of scenes with a second object
    """
    for k, (obj, style) in enumerate(pairs(suite, held_out=False)):
        for i in range(per_pair):
            rng = np.random.default_rng((seed, k, i))
            yield random_scene(suite, style, obj, rng, two), rng


def in_parts(
    suite: Suite,
    packs: dict[str, dict],
    per_pair: int,
    seed: int,
    size: int = 128,
    part: int = 1024,
    two: float = TWO,
) -> Iterator[Views]:
    """`per_pair` random views of each object x style pair that is not held out, so many at a time."""
    wanted = list(scenes(suite, per_pair, seed, two))
    bar = tqdm(total=len(wanted), desc="views", unit="view", mininterval=5)
    cores = os.cpu_count() or 1
    alone = len(wanted) < FEW or cores == 1
    given = (suite, packs, size)
    pool = None if alone else ProcessPoolExecutor(cores, get_context("spawn"), initializer=_give, initargs=given)
    with pool or nullcontext():
        if alone:
            _give(*given)
        chunks = [wanted[at : at + CHUNK] for at in range(0, len(wanted), CHUNK)]
        drawn = (image for some in (pool.map if pool else map)(_drawn, chunks) for image in some)
        for at in range(0, len(wanted), part):
            some = wanted[at : at + part]
            images = np.empty((len(some), size, size, 3), np.uint8)
            for i in range(len(some)):
                images[i] = next(drawn)
                bar.update()
            yield Views(images, [scene for scene, _ in some])
    bar.close()


def draw_views(suite: Suite, packs: dict[str, dict], per_pair: int, seed: int, size: int = 128) -> Views:
    """All of them at once."""
    (all_of_them,) = in_parts(suite, packs, per_pair, seed, size, part=10**9)
    return all_of_them


_given: tuple[Suite, dict[str, dict], int]  # of a process, so that packs travel once and not with every view


def _give(*given) -> None:
    global _given
    _given = given


def _drawn(some: list[Wanted]) -> list[np.ndarray]:
    suite, packs, size = _given
    return [draw(suite, packs, scene, rng, size) for scene, rng in some]
