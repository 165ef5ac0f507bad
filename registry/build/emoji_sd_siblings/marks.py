"""What stock pictures carry and nobody asks for: a label with a word, a badge in a corner, a small code."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

KINDS = ("word", "badge", "code")
SIDE = 128
WORD = "COPY"
# A Micro QR code that says SAYS, as ZXing writes it.
SAYS = "12345"
CODE = """
#######.#.# #.....#.##. #.###.#.#.. #.###.#.... #.###.#.### #.....#..## #######.#.. .........## ##..###..## .#.#...##..
####.....##
"""
MODULE = 5  # pixels of the code's squares: of smaller ones the autoencoder leaves nothing that can be read
_RED, _INK = (200, 30, 40, 255), (60, 60, 60, 255)


class Mark(NamedTuple):
    """One mark in a picture of ``SIDE`` pixels. box: left, top, right, bottom"""

    kind: str
    box: tuple[int, int, int, int]


def random_mark(rng: np.random.Generator, kind: str | None = None) -> Mark:
    """A mark at one of its usual places: a word at the bottom, all else in a corner."""
    kind = kind or str(rng.choice(KINDS))
    width, height = _picture(kind).size
    if kind == "word":
        left, top = (SIDE - width) // 2, SIDE - height - 2
    else:
        left, top = ((2, SIDE - side - 2)[int(rng.integers(2))] for side in (width, height))
    return Mark(kind, (left, top, left + width, top + height))


def planted(picture: np.ndarray, mark: Mark) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3] with a mark on it."""
    canvas = Image.fromarray(picture).convert("RGBA")
    canvas.alpha_composite(_picture(mark.kind), mark.box[:2])
    return np.asarray(canvas.convert("RGB"))


@cache
def _picture(kind: str) -> Image.Image:
    return {"word": _word, "badge": badge, "code": _code}[kind]()


def _word() -> Image.Image:
    """On a label of its own: of letters over a drawing no more than half are read behind the autoencoder."""
    font = ImageFont.load_default(36)
    left, top, right, bottom = (round(side) for side in font.getbbox(WORD, stroke_width=1))
    found = Image.new("RGBA", (right - left + 12, bottom - top + 10), (255, 255, 255, 255))
    pen = ImageDraw.Draw(found)
    pen.rectangle((0, 0, found.width - 1, found.height - 1), outline=_INK, width=2)
    pen.text((6 - left, 5 - top), WORD, font=font, fill=_INK, stroke_width=1, stroke_fill=_INK)
    return found


def badge() -> Image.Image:
    """A white star in a red circle. It is drawn four times as large first, for smooth edges."""
    found = Image.new("RGBA", (128, 128), (255, 255, 255, 0))
    pen = ImageDraw.Draw(found)
    pen.ellipse((2, 2, 126, 126), fill=_RED)
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radius = np.where(np.arange(10) % 2, 20, 48)
    pen.polygon([(64 + r * np.cos(a), 64 + r * np.sin(a)) for r, a in zip(radius, angles)], fill=(255, 255, 255, 255))
    return found.resize((32, 32), Image.Resampling.LANCZOS)


def _code() -> Image.Image:
    dark = np.array([[sign == "#" for sign in row] for row in CODE.split()])
    bits = np.where(np.pad(dark, 1), 0, 255).astype(np.uint8)
    return Image.fromarray(bits.repeat(MODULE, 0).repeat(MODULE, 1)).convert("RGBA")
