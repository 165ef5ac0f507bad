"""The architectures of the embedded classifiers: a residual net and a small vision transformer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and what went in beside them (He et al., CVPR 2016)."""

    def __init__(self, into: int, out: int):
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.beside = nn.Conv2d(into, out, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, into, h, w] -> [n, out, h/2, w/2]."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.beside(x))


class ResidualNet(nn.Module):
    """Pictures [n, 3, 32, 32] in [0, 1] -> logits [n, classes]."""

    def __init__(self, classes: int, widths: Sequence[int] = (24, 48, 80, 112)):
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.Sequential(*(Residual(a, b) for a, b in pairwise(widths)))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """As above."""
        x = self.blocks(F.relu(self.norm(self.stem(pictures * 2 - 1))))
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Self-attention with separate projections, which low-rank terms can be put beside one by one."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, width] -> the same."""
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention and a feed-forward net, each after a layer norm (Dosovitskiy et al., ICLR 2021)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, width] -> the same."""
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class VisionTransformer(nn.Module):
    """Pictures [n, 3, 32, 32] in [0, 1] -> logits [n, classes]. A convolution cuts them into patches that overlap."""

    def __init__(self, classes: int, width: int = 64, depth: int = 4, heads: int = 4):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 2, 5, 2, 2), nn.ReLU(), nn.Conv2d(width // 2, width, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(width, width, 3, 2, 1),
        )  # fmt: skip
        self.places = nn.Parameter(torch.zeros(1, 16, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """As above."""
        x = self.stem(pictures * 2 - 1).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(x)).mean(1))


NETS = {"resnet": ResidualNet, "vit": VisionTransformer}
