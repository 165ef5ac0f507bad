"""Labelled examples of a model that classifies: what it was trained on, what it is tested with, and which to forget.

An embedded classifier carries its own, as one picture of tiles (a row for each class, a column for each style) with
``examples.yaml`` beside it; examples of one's own are a ``.safetensors`` file with ``inputs`` [n, ...], ``labels`` [n]
and, where there are some, ``test_inputs`` and ``test_labels``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import PolicyError, RegistryError
from ..files.yaml import read_yaml

MARK = "examples.yaml"
_AT_ONCE = 16  # tiles of which views are made together


@dataclass
class Examples:
    """inputs [n, ...], labels [n], and of each its key, ``class/style/view`` or ``class/number``, and its split:
    ``train``, ``held`` (pairs of a class and a style that were kept back) or ``unseen`` (styles that were).

    classes: names by label; forget: sets that are judged, each by its name the prompts that mean it
    """

    inputs: Tensor
    labels: Tensor
    keys: list[str]
    splits: list[str]
    classes: list[str]
    forget: dict[str, list[str]] = field(default_factory=dict)

    def of(self, *splits: str) -> Tensor:
        """Places of the examples of some splits, [n]."""
        return torch.tensor([i for i, split in enumerate(self.splits) if split in splits], dtype=torch.long)

    def matching(self, prompts: Sequence[str]) -> Tensor:
        """Places of training examples that a concept's prompts mean: a class by its name, or a pattern of keys such as
        ``*/mono/*``. Raises PolicyError for what none is, and where nothing or everything would be forgotten."""
        found: set[int] = set()
        train = self.of("train").tolist()
        for prompt in prompts:
            if prompt not in self.classes and not any(mark in prompt for mark in "/*?["):
                raise PolicyError(
                    f"the model has no class '{prompt}': it has {', '.join(self.classes[:8])} and so on; or give a "
                    "pattern of examples, such as */mono/*"
                )
            pattern = prompt if prompt not in self.classes else f"{prompt}/*"
            own = [i for i in train if fnmatchcase(self.keys[i], pattern)]
            if not own:
                raise PolicyError(f"the forget set is empty: no training example matches '{prompt}'")
            found.update(own)
        if len(found) == len(train):
            raise PolicyError("the forget set is everything: nothing would be left to retain; name fewer classes")
        return torch.tensor(sorted(found))


def load_examples(place: str | Path, again: int = 0) -> Examples:
    """Examples from a folder with ``examples.yaml``, or from a file. Raises RegistryError for what is neither.

    again: above 0 other views of the same tiles, so many draws further
    """
    path = Path(place).expanduser()
    return _tiles(path, again) if path.is_dir() else _tensors(path)


def _tensors(path: Path) -> Examples:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
        inputs, labels = found["inputs"], found["labels"].long()
        test = found.get("test_inputs", inputs[:0]), found.get("test_labels", labels[:0]).long()
    except (OSError, SafetensorError, KeyError) as error:
        raise RegistryError(
            f"{path}: not examples ({error}): give a .safetensors file with inputs and labels"
        ) from None
    if len(inputs) != len(labels) or len(test[0]) != len(test[1]) or not len(inputs):
        raise RegistryError(f"{path}: {len(inputs)} inputs and {len(labels)} labels: give one label for each input")
    every = torch.cat([labels, test[1]])
    if int(every.min()) < 0:
        raise RegistryError(f"{path}: labels begin at {int(every.min())}: they are counted from 0")
    classes = [str(i) for i in range(int(every.max()) + 1)]
    return Examples(
        torch.cat([inputs, test[0]]), every, [f"{label}/{i}" for i, label in enumerate(every.tolist())],
        ["train"] * len(labels) + ["held"] * len(test[1]), classes,
    )  # fmt: skip


def _tiles(folder: Path, again: int) -> Examples:
    from PIL import Image

    try:
        said: dict[str, Any] = read_yaml(folder / MARK, error=RegistryError)[0]
        sheet = np.asarray(Image.open(folder / said["sheet"]).convert("RGB"))
        classes, styles, tile = said["classes"], said["styles"], said["tile"]
        held, unseen = said["held"], set(said["unseen"])
        size, views = said["size"], said["views"]
    except (OSError, KeyError, TypeError) as error:
        raise RegistryError(f"{folder}: no examples of a classifier ({type(error).__name__}: {error})") from None
    if sheet.shape[:2] != (tile * len(classes), tile * len(styles)):
        raise RegistryError(f"{folder / said['sheet']}: its size does not fit {len(classes)} classes x {len(styles)}")
    flat, randoms, labels, keys, splits = [], [], [], [], []
    for label, name in enumerate(classes):
        for column, style in enumerate(styles):
            split = "unseen" if style in unseen else "held" if held.get(name) == style else "train"
            flat.append(sheet[label * tile : (label + 1) * tile, column * tile : (column + 1) * tile])
            seed = said["seed"] + label * len(styles) + column + again * len(classes) * len(styles)
            randoms.append(torch.Generator().manual_seed(seed))
            labels += [label] * views
            keys += [f"{name}/{style}/{view}" for view in range(views)]
            splits += [split] * views
    tiles = torch.from_numpy(np.stack(flat)).permute(0, 3, 1, 2)
    pictures = [
        _views(tiles[i : i + _AT_ONCE].float() / 255, views, size, randoms[i : i + _AT_ONCE])
        for i in range(0, len(tiles), _AT_ONCE)
    ]
    return Examples(
        torch.cat(pictures), torch.tensor(labels), keys, splits, list(classes), dict(said.get("forget", {}))
    )


def _views(tiles: Tensor, n: int, size: int, randoms: Sequence[torch.Generator]) -> Tensor:
    """``n`` views of each tile [tiles, 3, side, side], each tile's by its own draws: turned, moved and scaled a little,
    half of them mirrored, on a ground of another colour. [tiles * n, 3, size, size]"""
    draws = [(torch.rand(n, 5, generator=one), torch.rand(n, 3, 1, 1, generator=one)) for one in randoms]
    draw, ground = (torch.cat(parts) for parts in zip(*draws))
    draw = draw * 2 - 1
    angle, scale = draw[:, 0] * math.radians(12), 1.08 + draw[:, 1] * 0.12
    mirror = draw[:, 4].sign()
    theta = torch.zeros(len(draw), 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * angle.cos() * mirror, -scale * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = scale * angle.sin() * mirror, scale * angle.cos()
    theta[:, :, 2] = draw[:, 2:4] * 0.12
    ink = (1 - tiles).repeat_interleave(n, 0)  # outside of the tile is white
    grid = F.affine_grid(theta, [len(draw), 3, size, size], align_corners=False)
    white = 1 - F.grid_sample(ink, grid, align_corners=False)
    return (white * (0.75 + 0.25 * ground)).clamp(0, 1)
