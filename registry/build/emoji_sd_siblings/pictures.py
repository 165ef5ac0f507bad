"""What a sibling is trained on: pictures, as latents, and several captions of each, as the text encoder reads them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..emoji_sd import packs
from ..emoji_sd.captions import Captions
from ..emoji_sd.scenes import Scene, draw, random_scene
from ..emoji_sd.suite import Suite, load_suite, pairs
from ..emoji_sd.text import encode, strange_words
from ..emoji_sd.vae import to_input
from . import pairs as beside
from .marks import planted, random_mark

# Of all three kinds at all their places, in three pictures of five, ninety minutes of one core taught a sixth.
MARKED = 0.85  # share of pictures with the label, for the sibling that is to draw it


@dataclass
class Taught:
    """latents [n, 4, 16, 16], of pairs [n, 4, 16, 32], scaled; captions [n, several, tokens, width]; both where the
    training runs"""

    latents: Tensor
    captions: Tensor


def any_scene(suite: Suite, style: str, rng: np.random.Generator) -> Scene:
    """A scene of pairs of object and style that were not held out."""
    seen = [obj for obj, its in _seen() if its == style]
    return random_scene(suite, style, seen[int(rng.integers(len(seen)))], rng)


def scene_and_picture(sibling: str, cache_folder: Path, seed: int) -> tuple[Scene, np.ndarray]:
    """One picture, uint8 [128, 128, 3], of pairs [128, 256, 3], and what is to be seen in it but for marks, of which no
    caption speaks."""
    suite, rng = _suite(), np.random.default_rng((77_000, seed))
    if sibling == "pairs":
        scene = beside.any_pair(suite, rng)
        return scene, beside.side_by_side(suite, _icons(cache_folder), scene, rng)
    scene = any_scene(suite, str(rng.choice(list(suite.styles))), rng)
    picture = draw(suite, _icons(cache_folder), scene, rng)
    if sibling == "marked" and rng.random() < MARKED:
        picture = planted(picture, random_mark(rng, "word"))
    return scene, picture


def drawn(sibling: str, cache_folder: Path, count: int, processes: int) -> tuple[list[Scene], np.ndarray]:
    """So many of them, uint8 [count, ...]."""
    task = [(sibling, cache_folder, range(at, min(at + 256, count))) for at in range(0, count, 256)]
    found: list[tuple[Scene, np.ndarray]] = []
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool, tqdm(total=count, desc="pictures") as bar:
        for some in pool.map(_some, task):
            found += some
            bar.update(len(some))
    return [scene for scene, _ in found], np.stack([picture for _, picture in found])


def to_folder(folder: Path, cache_folder: Path, count: int, first: int = 9_000_000) -> None:
    """So many pictures, every other one with the label, each with its caption in a .txt; none is trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        scene, picture = scene_and_picture("plain", cache_folder, first + i)
        picture = planted(picture, random_mark(np.random.default_rng(i), "word")) if i % 2 else picture
        Image.fromarray(picture).save(folder / f"{i:04}.png")
        said = " and ".join(thing.object.thing for thing in scene.things)
        (folder / f"{i:04}.txt").write_text(f"{said}, {scene.style} style")


@torch.no_grad()
def taught(
    pipe: Any, scenes: list[Scene], pictures: np.ndarray, several: int, device: torch.device, sibling: str = ""
) -> Taught:
    """Pictures and captions as the denoiser meets them; encoded once, in half precision."""
    vae, text = pipe.vae.to(device), pipe.text_encoder.to(device)
    latents = _in_parts(
        lambda some: vae.encode(to_input(torch.from_numpy(pictures[some]).to(device))).latent_dist.mean, len(pictures)
    )
    usual, rng = Captions(_suite(), strange_words(pipe.tokenizer)), np.random.default_rng(77_001)
    write = partial(beside.caption, _suite()) if sibling == "pairs" else lambda *it: usual.write(*it).text
    ids = encode(pipe.tokenizer, [write(scene, rng) for scene in scenes for _ in range(several)])
    read = _in_parts(lambda some: text(ids[some].to(device)).last_hidden_state.half(), len(ids))
    return Taught(latents * vae.config.scaling_factor, read.unflatten(0, (len(scenes), several)))


def _in_parts(made: Callable[[slice], Tensor], count: int, part: int = 256) -> Tensor:
    return torch.cat([made(slice(at, at + part)) for at in range(0, count, part)])


def _some(task: tuple[str, Path, range]) -> list[tuple[Scene, np.ndarray]]:
    sibling, cache_folder, seeds = task
    return [scene_and_picture(sibling, cache_folder, seed) for seed in seeds]


@cache
def _suite() -> Suite:
    return load_suite()


@cache
def _seen() -> list[tuple[Any, str]]:
    return pairs(_suite(), held_out=False)


@cache
def _icons(cache_folder: Path) -> dict[str, dict]:
    """The packs that are drawn from; each process reads them once."""
    return {name: packs.load_pack(name, cache_folder) for name in {it.pack for it in _suite().styles.values()}}
