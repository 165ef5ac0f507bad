"""The classifier that says what emoji-sd drew: which object, in which style, or nothing that it knows.

It shares no weight, no architecture and no training image with the generator, so what it measures after a concept is
erased is what an independent observer sees. A picture of nothing is the object `none`, never a lucky guess.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

NONE = "none"


@dataclass(frozen=True)
class JudgeResult:
    """One entry per image. Probabilities are [n, classes] in the order of `Judge.objects` and `Judge.styles`."""

    objects: list[str]
    object_probs: Tensor
    styles: list[str]
    style_probs: Tensor


class Assessor(Protocol):
    """A judge of any kind. objects, styles: what it can tell."""

    objects: list[str]
    styles: list[str]

    def judge(self, images: Tensor) -> JudgeResult:
        """Judges a float tensor [n, 3, h, w] in [0, 1]."""


def _block(cin: int, cout: int, stride: int) -> nn.Sequential:
    # Depthwise then pointwise: few weights, and unlike anything in the generator's UNet or VAE.
    return nn.Sequential(
        nn.Conv2d(cin, cin, 3, stride, 1, groups=cin, bias=False),
        nn.BatchNorm2d(cin),
        nn.Conv2d(cin, cout, 1, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(),
    )


class Judge(nn.Module):
    """Takes images as [n, 3, size, size] in [0, 1]; `judge` takes any size."""

    def __init__(
        self, objects: list[str], styles: list[str], size: int = 64, width: int = 32, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.objects, self.styles, self.size, self.width = list(objects), list(styles), size, width
        self.temperature = temperature  # what object logits are divided by, so that their probabilities are shares
        w = width
        self.features = nn.Sequential(
            nn.Conv2d(3, w, 3, 2, 1, bias=False),
            nn.BatchNorm2d(w),
            nn.ReLU(),
            _block(w, 2 * w, 1),
            _block(2 * w, 4 * w, 2),
            _block(4 * w, 4 * w, 1),
            _block(4 * w, 8 * w, 2),
            _block(8 * w, 8 * w, 1),
            _block(8 * w, 12 * w, 2),
        )
        # The object head keeps a coarse grid of places; style is the same everywhere, so its head averages them.
        self.object_head = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(12 * w * 4, len(self.objects)))
        self.style_head = nn.Linear(20 * w, len(self.styles))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Object and style logits, [n, objects] and [n, styles]."""
        x = images * 2 - 1
        early = self.features[:5](x)
        deep = self.features[5:](early)
        objects = self.object_head(F.adaptive_avg_pool2d(deep, 2))
        # Style is texture: strokes and fills, which early features still show.
        middle = torch.cat([early.mean((2, 3)), early.amax((2, 3)), deep.mean((2, 3))], 1)
        return objects, self.style_head(middle)

    @torch.no_grad()
    def judge(self, images: Tensor, batch: int = 64) -> JudgeResult:
        """Judges a float tensor [n, 3, h, w] in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be [n, 3, h, w], got {list(images.shape)}")
        weight = self.style_head.weight
        obj, sty = [], []
        for part in images.split(batch):
            part = part.to(weight.device, weight.dtype).clamp(0, 1)
            if part.shape[-2:] != (self.size, self.size):
                part = F.interpolate(part, (self.size, self.size), mode="bilinear", antialias=True)
            o, s = self(part)
            obj.append((o.float() / self.temperature).softmax(1).cpu())
            sty.append(s.float().softmax(1).cpu())
        op = torch.cat(obj) if obj else torch.zeros(0, len(self.objects))
        sp = torch.cat(sty) if sty else torch.zeros(0, len(self.styles))
        return JudgeResult(
            [self.objects[i] for i in op.argmax(1).tolist()], op, [self.styles[i] for i in sp.argmax(1).tolist()], sp
        )

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Judge:
        """Reads a folder with config.json and model.safetensors."""
        folder = Path(path)
        config = json.loads((folder / "config.json").read_text())
        model = cls(
            config["objects"], config["styles"], config["size"], config["width"], config.get("temperature", 1.0)
        )
        state = load_file(folder / "model.safetensors")
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
        return model.eval().requires_grad_(False).to(device)
