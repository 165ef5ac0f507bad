"""A judge for a model of one's own: a small classifier of pictures that somebody has sorted into folders.

It sees pictures and nothing of the model, so what it recognises after a concept was erased is what an independent
observer would. Pictures that the judged model drew itself make it less independent: photographs are better.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ArtifactError, RegistryError
from ..files.atomic import write_bytes
from ..files.pictures import SUFFIXES, open_picture
from .calibrate import calibrate, errors, gap
from .judge import NONE, Judge

LEAST = 8  # pictures of a class; every fifth is held out
HELD_OUT = 5
CALIBRATED_FROM = 20  # pictures of every class; then another fifth says how sure the judge may be
GOOD_ENOUGH = 0.8


class Sorted(NamedTuple):
    """pixels: [n, 3, size, size] in [0, 1]; labels: [n], places in ``names``."""

    names: list[str]
    pixels: Tensor
    labels: Tensor


class Trained(NamedTuple):
    """shares: of held-out pictures that are named right, under "all" and each class; stated: how it errs, see
    ``errors``; temperature: what its logits were divided by, 1 where there were too few pictures to tell; gap: how far
    what it says of its certainty and how often it is right are apart on pictures kept out.
    """

    judge: Judge
    shares: dict[str, float]
    stated: dict[str, dict[str, Any]]
    temperature: float
    gap: float


def read_sorted(folder: Path, size: int = 64) -> Sorted:
    """Pictures in one folder for each class, named like the suite's objects. ``none`` holds pictures of nothing that
    counts. Raises RegistryError for fewer than two classes, or too few pictures of one; ConceptGuardError for a file
    that is no picture.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if len(classes) < 2:
        raise RegistryError(
            f"{folder} has {len(classes)} folders: put pictures of each object into a folder of its name, and pictures "
            f"of nothing in particular into '{NONE}'"
        )
    pixels, labels = [], []
    for label, path in enumerate(classes):
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if len(files) < LEAST:
            raise RegistryError(f"{path} has {len(files)} pictures: give {LEAST} or more, a few dozen are better")
        pixels += [_read(file, size) for file in files]
        labels += [label] * len(files)
    return Sorted([path.name for path in classes], torch.stack(pixels), torch.tensor(labels))


def _read(file: Path, size: int) -> Tensor:
    """[3, size, size] in [0, 1]."""
    import numpy as np
    from PIL import Image, ImageOps

    small = ImageOps.fit(open_picture(file), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float() / 255


def train(
    pictures: Sorted, steps: int = 400, seed: int = 0, width: int = 32, tick: Callable[[int], None] = lambda n: None
) -> Trained:
    """Learn from most pictures, certainty from every fifth, and measure on another fifth that neither has seen."""
    held = _every_fifth(pictures, HELD_OUT - 1)
    enough = int(torch.bincount(pictures.labels).min()) >= CALIBRATED_FROM
    sure = _every_fifth(pictures, HELD_OUT - 2) if enough else torch.zeros_like(held)
    names = pictures.names if NONE in pictures.names else [*pictures.names, NONE]
    learned = ~held & ~sure
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        judge = Judge(names, ["any"], pictures.pixels.shape[-1], width)
        _fit(judge, pictures.pixels[learned], pictures.labels[learned], steps, tick)
    judge.eval().requires_grad_(False)
    temperature = calibrate(judge, pictures.pixels[sure], pictures.labels[sure]) if enough else 1.0
    pixels, labels = pictures.pixels[held], pictures.labels[held]
    apart = gap(judge.judge(pixels).object_probs, labels)
    shares = accuracy(judge, pictures.names, pixels, labels)
    return Trained(judge, shares, errors(judge, pictures.names, pixels, labels), temperature, apart)


def _every_fifth(pictures: Sorted, first: int) -> Tensor:
    """[n], true for every fifth picture of each class."""
    chosen = torch.zeros(len(pictures.labels), dtype=torch.bool)
    for label in range(len(pictures.names)):
        chosen[(pictures.labels == label).nonzero()[:, 0][first::HELD_OUT]] = True
    return chosen


def _fit(judge: Judge, pixels: Tensor, labels: Tensor, steps: int, tick: Callable[[int], None]) -> None:
    draw = torch.Generator().manual_seed(int(torch.randint(2**31, (1,))))
    optimiser = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps + 1)
    count = torch.bincount(labels).float()
    weights = (1 / count.clamp(min=1))[labels]  # a class of few pictures is seen as often
    judge.train()
    for _ in range(steps):
        chosen = torch.multinomial(weights, 32, replacement=True, generator=draw)
        objects, _ = judge(_varied(pixels[chosen], draw))
        loss = F.cross_entropy(objects, labels[chosen], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        tick(1)


def _varied(pixels: Tensor, draw: torch.Generator) -> Tensor:
    """Mirrored, moved, nearer or farther, brighter or darker: what a picture may be and still show the same."""
    n = len(pixels)
    mirror = torch.where(torch.rand(n, generator=draw) < 0.5, -1.0, 1.0)
    scale = 0.8 + 0.4 * torch.rand(n, generator=draw)
    shift = 0.3 * torch.rand(n, 2, generator=draw) - 0.15
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = mirror * scale, scale, shift
    moved = F.grid_sample(pixels, F.affine_grid(matrix, list(pixels.shape), align_corners=False), mode="bilinear",
                          padding_mode="border", align_corners=False)  # fmt: skip
    light = 0.8 + 0.4 * torch.rand(n, 1, 1, 1, generator=draw)
    return (moved * light).clamp(0, 1)


def accuracy(judge: Judge, names: Sequence[str], pixels: Tensor, labels: Tensor) -> dict[str, float]:
    """The share that is named right, under "all" and under each class."""
    seen = judge.judge(pixels).objects
    right = [seen[i] == names[label] for i, label in enumerate(labels.tolist())]
    found = {"all": sum(right) / max(len(right), 1)}
    for label, name in enumerate(names):
        own = [hit for hit, at in zip(right, labels.tolist()) if at == label]
        found[name] = sum(own) / max(len(own), 1)
    return {name: round(share, 3) for name, share in found.items()}


def write_judge(made: Trained, folder: Path) -> None:
    """The judge as ``Judge.load`` reads it. Raises ArtifactError for one that is wrong too often to judge by."""
    from safetensors.torch import save

    judge, shares = made.judge, made.shares
    if shares["all"] < GOOD_ENOUGH:
        worst = min((name for name in shares if name != "all"), key=shares.__getitem__)
        raise ArtifactError(
            f"the judge names {shares['all']:.0%} of the pictures right that it was not trained on, and {worst} least: "
            "nothing that it said would mean anything; give more pictures, or plainer ones"
        )
    config: dict[str, Any] = {"objects": judge.objects, "styles": judge.styles, "size": judge.size,
                              "width": judge.width, "held_out_accuracy": shares, "stated": made.stated,
                              "temperature": made.temperature, "calibration_gap": made.gap}  # fmt: skip
    write_bytes(folder / "config.json", (json.dumps(config, indent=1) + "\n").encode())
    tensors = {name: tensor.contiguous() for name, tensor in judge.state_dict().items()}
    write_bytes(folder / "model.safetensors", save(tensors))
