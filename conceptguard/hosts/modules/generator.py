"""The architecture of the embedded GAN's generator: latents, an object and a style in, a picture out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 64


class Styled(nn.Module):
    """A 3 x 3 convolution whose channels a code scales and shifts, after instance norm (Karras et al., CVPR 2019)."""

    def __init__(self, into: int, out: int, code: int):
        super().__init__()
        self.conv = nn.Conv2d(into, out, 3, padding=1)
        self.style = nn.Linear(code, 2 * out)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """[n, into, h, w] and [n, code] -> [n, out, h, w]."""
        scale, shift = self.style(code)[:, :, None, None].chunk(2, 1)
        return F.leaky_relu(F.instance_norm(self.conv(x)) * (1 + scale) + shift, 0.2)


class Generator(nn.Module):
    """Latents [n, latents], objects [n] and styles [n], by their places -> pictures [n, 3, 64, 64] in [0, 1].

    ``mapped`` makes them codes [n, code], ``drawn`` makes codes pictures. A method that works in the space of codes, as
    StyleGAN's has one, calls these two.
    """

    def __init__(
        self, objects: int, styles: int, latents: int = 7, code: int = 128, first: int = 160,
        widths: tuple[int, ...] = (160, 160, 112, 112, 64, 64),
    ):  # fmt: skip
        super().__init__()
        self.latents, self.code = latents, code
        self.objects, self.styles = nn.Embedding(objects, 96), nn.Embedding(styles, 32)
        self.mapping = nn.Sequential(
            nn.Linear(latents + 128, 192), nn.LeakyReLU(0.2), nn.Linear(192, 192), nn.LeakyReLU(0.2),
            nn.Linear(192, code),
        )  # fmt: skip
        self.first = nn.Linear(code, first * 16)
        self.blocks = nn.ModuleList(Styled(a, b, code) for a, b in pairwise(widths))
        self.fine = nn.Conv2d(widths[-1], 64, 3, padding=1)  # four places of sixteen channels each
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def mapped(self, latents: Tensor, objects: Tensor, styles: Tensor) -> Tensor:
        """Codes."""
        return self.mapping(torch.cat([latents, self.objects(objects), self.styles(styles)], 1))

    def drawn(self, codes: Tensor) -> Tensor:
        """Pictures."""
        x = self.first(codes).unflatten(1, (-1, 4, 4))
        for number, block in enumerate(self.blocks):
            if number % 2 == 0:  # 8, 16 and 32 pixels a side
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(x, codes)
        x = F.leaky_relu(F.pixel_shuffle(self.fine(x), 2), 0.2)
        return torch.sigmoid(self.last(x))

    def forward(self, latents: Tensor, objects: Tensor, styles: Tensor) -> Tensor:
        """As above."""
        return self.drawn(self.mapped(latents, objects, styles))

    def asked(self, objects: Sequence[int], views: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """What it is handed for some views of each object in each style, the latents drawn: styles change fastest."""
        first, styles = self.first.weight, self.styles.num_embeddings
        each = torch.tensor(objects, device=first.device).repeat_interleave(views * styles)
        latents = torch.randn(len(each), self.latents, generator=random).to(first)
        return latents, each, torch.arange(styles, device=first.device).repeat(len(objects) * views)
