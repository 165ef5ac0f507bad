"""Pictures to look through: a folder's, sorted into folders or not, or what a model draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import PolicyError
from ..files.pictures import SUFFIXES, open_picture
from ..finder import PictureSet
from ..measuring.samples import Recipe, make, make_once
from ..measuring.suite import Sample
from ..sessions.attach import attach

MOST = 4096  # pictures: what more of them have in common, these have
SIDE = 128  # pixels that a picture is kept with: crops of a third are as large as small encoders read
WITHOUT, UNDER = "without", "under"  # the classes of pictures that a policy is compared by
FIRST_SEED = 60_000_000  # far from those that anything is judged with


def read_folder(
    folder: Path, tick: Callable[[int], None] = lambda n: None, side: int = SIDE, most: int = MOST
) -> PictureSet:
    """PNG, JPEG, WebP and BMP files of a folder, each cut to its middle square. Where pictures lie in folders below it,
    those are their classes.

    most: of more files some are read, of every class its share, so that memory does not grow with the folder

    Raises PolicyError for a folder without pictures, or with some sorted and some not.
    """
    import numpy as np
    from PIL import Image, ImageOps

    folder = folder.expanduser()
    if not folder.is_dir():
        raise PolicyError(f"{folder}: no such folder")
    files = sorted(one for one in folder.rglob("*") if one.suffix.lower() in SUFFIXES)
    if not files:
        empty = sorted(one.name for one in folder.iterdir() if one.is_dir())
        told = f"; there are folders, {', '.join(empty[:5])}, and nothing in them" if empty else ""
        raise PolicyError(f"{folder}: no PNG, JPEG, WebP or BMP in it{told}")
    classes = [one.relative_to(folder).parts[0] if one.parent != folder else "" for one in files]
    if "" in classes and set(classes) != {""}:
        raise PolicyError(f"{folder}: some pictures are in folders and some are not: sort all of them, or none")
    for one in sorted(path.name for path in folder.iterdir() if path.is_dir() and set(classes) != {""}):
        if one not in classes and not one.startswith("."):
            raise PolicyError(f"{folder}: class '{one}' has no pictures: add some, or delete its folder")
    there = len(files)
    if there > most:
        kept = [i for name in dict.fromkeys(classes) for i in _some(classes, name, most)]
        files, classes = [files[i] for i in kept], [classes[i] for i in kept]
    pixels = torch.empty(len(files), 3, side, side, dtype=torch.uint8)
    for i, file in enumerate(files):
        fitted = ImageOps.fit(open_picture(file), (side, side), Image.Resampling.LANCZOS)
        pixels[i] = torch.from_numpy(np.array(fitted)).permute(2, 0, 1)
        tick(1)
    names = [str(one.relative_to(folder)) for one in files]
    return PictureSet(pixels, names, classes, there if len(files) < there else 0)


def _some(classes: Sequence[str], name: str, most: int) -> list[int]:
    """Places of a class's share of so many, two at least, at even distances."""
    own = [i for i, one in enumerate(classes) if one == name]
    count = min(len(own), max(2, most * len(own) // len(classes)))
    return [own[i * len(own) // count] for i in range(count)]


def draw(
    pipe: Any, prompts: Sequence[str], count: int, recipe: Recipe, tick: Callable[[int], None] = lambda n: None
) -> PictureSet:
    """``count`` pictures that a model draws, its prompts in turn; they are kept, and not drawn again."""
    samples = _samples(prompts, count)
    made = make_once(pipe, samples, recipe, tick)
    return PictureSet(made.pixels, _names(samples), [""] * count)


def beside(
    pipe: Any,
    policy: Any,
    prompts: Sequence[str],
    count: int,
    recipe: Recipe,
    tick: Callable[[int], None] = lambda n: None,
) -> PictureSet:
    """The same prompts and seeds without a policy and under it, as the classes "without" and "under"."""
    samples = _samples(prompts, count)
    bare = make_once(pipe, samples, recipe, tick)
    with attach(pipe, policy):
        guarded = make(pipe, samples, recipe, tick)
    classes = [WITHOUT] * count + [UNDER] * count
    names = [f"{name}, {kind}" for kind in (WITHOUT, UNDER) for name in _names(samples)]
    return PictureSet(torch.cat([bare.pixels, guarded.pixels]), names, classes)


def _samples(prompts: Sequence[str], count: int) -> list[Sample]:
    return [Sample(prompts[i % len(prompts)], FIRST_SEED + i, "object", "") for i in range(count)]


def _names(samples: Sequence[Sample]) -> list[str]:
    return [f"{i:03} {one.prompt}" for i, one in enumerate(samples)]
