"""Bars in a small picture: how far each guard is open."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

WIDTH, ROW, TOP, LABEL = 512, 26, 40, 240
MOST = 16
INK, SOFT, PAPER, BAR, TRACK = "#1d1f24", "#6a7079", "#ffffff", "#c0392b", "#eceff3"


def bars(rows: Sequence[tuple[str, float, str]], title: str) -> Tensor:
    """An IMAGE [1, height, 512, 3] in [0, 1]. rows: (label, 0 to 1 or more, note); the sixteen longest bars."""
    shown = sorted(rows, key=lambda row: -row[1])[:MOST]
    more = len(rows) - len(shown)
    picture = Image.new("RGB", (WIDTH, TOP + ROW * max(len(shown), 1) + (ROW if more else 0) + 10), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((12, 12), _cut(title, 76), INK, _font(15))
    full = max([1.0, *(value for _, value, _ in shown)])
    for n, (label, value, note) in enumerate(shown):
        top = TOP + n * ROW
        draw.text((12, top + 4), _cut(label, 36), INK if value else SOFT, _font(12))
        end = LABEL + (WIDTH - LABEL - 60) * value / full
        draw.rectangle((LABEL, top + 5, WIDTH - 60, top + ROW - 7), TRACK)
        if value:
            draw.rectangle((LABEL, top + 5, end, top + ROW - 7), BAR)
        draw.text((WIDTH - 52, top + 4), f"{value:.2f}", INK if value else SOFT, _font(12))
        draw.text((LABEL + 4, top + 6), _cut(note, 34), PAPER if value > 0.5 * full else SOFT, _font(10))
    if not shown or more:
        draw.text((12, TOP + 4 + ROW * len(shown)), f"and {more} more" if more else "no guards", SOFT, _font(12))
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)[None]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
