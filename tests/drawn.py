"""Pictures that tests draw: writing, codes, and plain ones, as tensors [1, 3, height, width] in [0, 1]."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import segno
import torch
from PIL import Image, ImageDraw, ImageFont

import conceptguard
from conceptguard.hosts.images import Pictures
from conceptguard.receipt import Receipt
from conceptguard.sessions.session import Session

PAPER = (200, 220, 240)


def tensor(picture: Image.Image) -> torch.Tensor:
    """A picture as hosts hand it to guards."""
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)[None] / 255


def written(lines: Sequence[tuple[int, int, str]], size: tuple[int, int] = (256, 256), height: int = 32) -> Image.Image:
    """Lines of writing, each at its place. size: width, height of the picture."""
    picture = Image.new("RGB", size, PAPER)
    for left, top, text in lines:
        ImageDraw.Draw(picture).text((left, top), text, fill=(20, 20, 20), font=ImageFont.load_default(height))
    return picture


def qr(says: str = "hello", scale: int = 3) -> Image.Image:
    """A QR code with its quiet zone, dark on white."""
    data = io.BytesIO()
    segno.make_qr(says).save(data, kind="png", scale=scale, border=4)
    return Image.open(data).convert("RGB")


def on_paper(picture: Image.Image, place: tuple[int, int], size: tuple[int, int] = (256, 256)) -> Image.Image:
    """A picture on a larger one."""
    paper = Image.new("RGB", size, PAPER)
    paper.paste(picture, place)
    return paper


def looking(guard: dict[str, Any], action: str = "flag") -> Session:
    """A policy of one guard, attached to no model: what looks at pictures from anywhere."""
    return conceptguard.attach(Pictures(), {"on_violation": action, "guards": [guard]})


def look(guard: dict[str, Any], pictures: torch.Tensor, action: str = "flag") -> tuple[torch.Tensor, Receipt]:
    """Pictures after a look, and the receipt."""
    with looking(guard, action) as session:
        return session.check_image(pictures, [None] * len(pictures)), session.receipt


def inside(box: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Which pixels are in a box, as a mask of one picture [3, height, width]."""
    mask = torch.zeros_like(like, dtype=torch.bool)
    left, top, right, bottom = box
    mask[:, top:bottom, left:right] = True
    return mask
