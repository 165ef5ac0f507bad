"""What emoji-gan is trained on: a tile for each object in each style, and views of it that seven numbers describe."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from conceptguard.hosts.modules.generator import SIZE

from ..emoji_sd.packs import load_pack
from ..emoji_sd.render import icon, on_ground
from ..emoji_sd.suite import Suite, icon_in

TILE = 2 * SIZE  # a view is drawn twice as large and then halved, so that edges are smooth
VIEW = 7  # numbers: to the right, down, size, angle, and the ground's red, green and blue


def tiles(suite: Suite, cache: Path, kept: Path) -> Tensor:
    """Of all objects and styles, uint8 [objects, styles, 3, TILE, TILE]. kept: a picture of them, written where there
    is none."""
    shape = len(suite.objects), len(suite.styles)
    if not kept.is_file():
        packs = {style.pack: load_pack(style.pack, cache) for style in suite.styles.values()}
        rows = []
        for one in suite.objects:
            drawn = []
            for style in suite.styles.values():
                rgba = icon(packs[style.pack], icon_in(one, style.pack), TILE)
                if rgba is None:
                    raise ValueError(f"{style.pack} has no {one.name}: a suite's styles have all of its objects")
                drawn.append(on_ground([rgba], pixels=style.pixels))
            rows.append(np.concatenate(drawn, 1))
        kept.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(rows)).save(kept)
    sheet = torch.from_numpy(np.asarray(Image.open(kept).convert("RGB")).copy())
    return sheet.view(shape[0], TILE, shape[1], TILE, 3).permute(0, 2, 4, 1, 3).contiguous()


def views(some: Tensor, latents: Tensor) -> Tensor:
    """Tiles [n, 3, TILE, TILE] in [0, 1] as latents [n, VIEW], normal numbers, say: [n, 3, SIZE, SIZE]."""
    even = torch.special.ndtr(latents) * 2 - 1  # equally many of each view
    angle, size = even[:, 3] * math.radians(6), 1.08 + 0.06 * even[:, 2]
    theta = torch.stack(
        [torch.stack([size * angle.cos(), -size * angle.sin(), 0.05 * even[:, 0]], 1),
         torch.stack([size * angle.sin(), size * angle.cos(), 0.05 * even[:, 1]], 1)], 1
    )  # fmt: skip
    grid = F.affine_grid(theta, list(some.shape), align_corners=False)
    white = 1 - F.grid_sample(1 - some, grid, align_corners=False)  # outside of a tile is white
    ground = 0.9 + 0.1 * even[:, 4:7, None, None]
    return F.avg_pool2d(white * ground, 2)
