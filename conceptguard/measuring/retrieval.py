"""A second judge, of another kind: which rendering that somebody named looks most like a picture?

Nothing in it is trained to tell objects apart. A picture becomes a histogram of oriented gradients (Dalal and Triggs,
2005) with the mean colours of its cells; differences that views of one thing show among themselves are divided out
(Hariharan, Malik and Ramanan, 2012); then its nearest neighbour among the references says what it is. There is no
gradient into it that a maker could follow, and no boundary that it shares with a classifier.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from .judge import NONE, JudgeResult

SIZE, CELL, ANGLES = 64, 8, 9
COLOUR = 0.7  # weight of a cell's mean colour beside its histogram


def describe(images: Tensor) -> Tensor:
    """Descriptors [n, 768] of images [n, 3, h, w] in [0, 1]: 9 orientations and 3 colours of 8 x 8 cells."""
    x = images.float().clamp(0, 1)
    if x.shape[-2:] != (SIZE, SIZE):
        x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
    slope = x.new_tensor([-1.0, 0.0, 1.0])
    across = F.conv2d(F.pad(x, (1, 1, 0, 0), "replicate"), slope.view(1, 1, 1, 3).expand(3, 1, 1, 3), groups=3)
    down = F.conv2d(F.pad(x, (0, 0, 1, 1), "replicate"), slope.view(1, 1, 3, 1).expand(3, 1, 3, 1), groups=3)
    strength = (across.square() + down.square()).sqrt()
    steepest = strength.argmax(1, keepdim=True)  # each place has the gradient of its steepest colour
    across, down, strength = (each.gather(1, steepest)[:, 0] for each in (across, down, strength))
    place = torch.atan2(down, across) % torch.pi / torch.pi * ANGLES
    low = place.floor().long() % ANGLES
    share = place - place.floor()
    votes = x.new_zeros(len(x), ANGLES, SIZE, SIZE)
    votes.scatter_add_(1, low[:, None], (strength * (1 - share))[:, None])
    votes.scatter_add_(1, ((low + 1) % ANGLES)[:, None], (strength * share)[:, None])
    cells = F.avg_pool2d(votes, CELL)
    around = F.avg_pool2d(F.pad(cells.square().sum(1, keepdim=True), (1, 1, 1, 1)), 3, 1).sqrt()
    cells = (cells / (around + 0.02)).clamp(max=0.5)
    return torch.cat([cells.flatten(1), COLOUR * F.avg_pool2d(x, CELL).flatten(1)], 1)


class RetrievalJudge:
    """References [m, k] of length 1, their labels, and what takes a descriptor to them. `judge` as the other judge's.

    mean, whitening: [768] and [768, k]; labels, styles: [m] places in ``objects`` and ``style_names``; least: a picture
    whose best reference is less alike than this (a cosine) shows nothing that is known
    """

    def __init__(
        self, objects: list[str], style_names: list[str], tensors: dict[str, Tensor], least: float = 0.0
    ) -> None:
        self.objects, self.styles, self.least = list(objects), list(style_names), least
        self.tensors = tensors

    def likeness(self, images: Tensor, batch: int = 256) -> Tensor:
        """Cosines [n, m] of images [n, 3, h, w] with every reference."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be [n, 3, h, w], got {list(images.shape)}")
        mean, whitening, references = (self.tensors[name].float() for name in ("mean", "whitening", "references"))
        parts = [
            F.normalize((describe(part.to(mean.device)) - mean) @ whitening, dim=1) for part in images.split(batch)
        ]
        return torch.cat(parts) @ F.normalize(references, dim=1).T if parts else mean.new_zeros(0, len(references))

    @torch.no_grad()
    def judge(self, images: Tensor, batch: int = 256) -> JudgeResult:
        """Judges a float tensor [n, 3, h, w] in [0, 1]. The probabilities are each class's best cosine, at least 0."""
        cosines = self.likeness(images, batch).cpu()
        known = self.objects.index(NONE) if NONE in self.objects else None
        objects = _best(cosines, self.tensors["labels"], len(self.objects))
        styles = _best(cosines, self.tensors["styles"], len(self.styles))
        names = [self.objects[i] for i in objects.argmax(1).tolist()]
        if known is not None:
            names = [NONE if best < self.least else name for best, name in zip(objects.amax(1), names, strict=True)]
        return JudgeResult(names, objects, [self.styles[i] for i in styles.argmax(1).tolist()], styles)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        config = {"kind": "retrieval", "objects": self.objects, "styles": self.styles, "least": self.least}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file({name: each.contiguous() for name, each in self.tensors.items()}, folder / "model.safetensors")

    @classmethod
    def load(cls, path: str | Path) -> RetrievalJudge:
        """Reads a folder with config.json and model.safetensors."""
        config = json.loads((Path(path) / "config.json").read_text())
        return cls(config["objects"], config["styles"], load_file(Path(path) / "model.safetensors"), config["least"])


def _best(cosines: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The best cosine of each class, [n, classes]; references of label -1 are of none."""
    best = cosines.new_zeros(len(cosines), classes)
    counted = labels >= 0
    at = labels[counted].long().expand(len(cosines), -1)
    return best.scatter_reduce(1, at, cosines[:, counted], "amax")


def fit(
    images: Tensor,
    labels: Tensor,
    styles: Tensor,
    objects: list[str],
    style_names: list[str],
    kept: int,
    rank: int = 256,
) -> RetrievalJudge:
    """A judge from renderings [n, 3, h, w] in [0, 1] with their labels and styles [n] (-1 where there is none).

    kept: references of each label and style; the others only say how views of one thing differ. What shows none of the
    objects is many things: all of it is kept, and says nothing of how views of one differ.
    """
    described = torch.cat([describe(part) for part in images.split(256)])
    groups = labels * (len(style_names) + 1) + styles + 1
    none = objects.index(NONE) if NONE in objects else -1
    mean, residual, references = described.mean(0), [], []
    for group in groups.unique():
        rows = (groups == group).nonzero()[:, 0]
        if int(labels[rows[0]]) == none:
            references.append(rows)
            continue
        residual.append(described[rows] - described[rows].mean(0))
        references.append(rows[:kept])
    within = torch.cat(residual)
    covariance = within.T @ within / len(within)
    covariance += 0.3 * covariance.diagonal().mean() * torch.eye(len(covariance))
    values, vectors = torch.linalg.eigh(covariance)
    whitening = vectors / values.sqrt()
    rows = torch.cat(references)
    # Of the whitened space, the directions in which things differ.
    directions = torch.linalg.svd((described[rows] - mean) @ whitening, full_matrices=False)[2][:rank].T
    whitening = whitening @ directions
    tensors = {
        "mean": mean,
        "whitening": whitening.half(),
        "references": F.normalize((described[rows] - mean) @ whitening, dim=1).half(),
        "labels": labels[rows].to(torch.int16),
        "styles": styles[rows].to(torch.int16),
    }
    return RetrievalJudge(objects, style_names, tensors)
