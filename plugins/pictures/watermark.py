"""A last look at the image for an invisible watermark that is known: whose payload it carries.

Read are the two schemes without a network of the invisible-watermark package, which Stable Diffusion's own scripts and
diffusers write (dwtDct, dwtDctSvd). Every block of 4 x 4 in the blue difference, after one step of a Haar transform,
votes for one bit; a DCT is in their names alone, as the largest singular value is the same without it. Reading always
gives bits: what tells a watermark is that they are the payload's, more of them than chance would give. The package
itself is not needed: its reader takes one picture at a time, in Python, and it brings a second OpenCV, whose files
overwrite those that other detectors use.
"""

from __future__ import annotations

from math import comb
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from conceptguard.generation.images import Images
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.receipt import Verdict

STEP = 36.0  # between values that mean the same bit
BLOCK = 4
ONE = 2**14
CHANCE = 1e-6  # how often a picture without the watermark may be taken for one with it
FEWEST = 20  # bits, fewer of which are all right by chance more often than that


class WatermarkSettings(Settings):
    """payload: what the watermark says: text, as "SDV2 by us"; bits, as "0b1011…"; or bytes, as "0x1f2e…"
    scheme: how it was written; dwtDct is what diffusers and Stable Diffusion write
    threshold: share of its bits from which an image is flagged; by default what chance gives once in a million
    """

    payload: str
    scheme: Literal["dwtDct", "dwtDctSvd"] = "dwtDct"
    threshold: float | None = Field(default=None, gt=0.5, le=1)

    @field_validator("payload")
    @classmethod
    def _telling(cls, payload: str) -> str:
        found = bits_of(payload)
        if len(found) < FEWEST:
            raise ValueError(f"a payload of {len(found)} bits is found everywhere: {FEWEST} tell something, 32 more")
        if not 0.2 <= sum(found) / len(found) <= 0.8:
            raise ValueError("a payload of nearly all zeros or nearly all ones is found in every plain picture")
        return payload


class Watermark(Method):
    """Pictures: looks at each finished picture for a known invisible watermark.

    Flags images that carry the payload. One verdict an image; score: the share of its bits that is there, of which
    chance gives a half.
    """

    name = "watermark"
    needs = "nothing"
    Settings = WatermarkSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.bits = torch.tensor(bits_of(self.settings.payload), dtype=torch.bool)
        self.threshold = self.settings.threshold or beyond_chance(len(self.bits))

    @hookimpl
    def check_image(self, images: Images) -> None:
        """An image with fewer blocks than the payload has bits cannot carry it: score 0."""
        found = read(images.pixels, len(self.bits), self.settings.scheme)
        if found is None:
            scores = [0.0] * len(images.pixels)
        else:
            scores = (found == self.bits.to(found.device)).float().mean(1).tolist()
        for i, score in enumerate(scores):
            flagged = score >= self.threshold
            label = "watermark" if flagged else "nothing"
            images.verdicts.append(Verdict(i, self.guard.label, label, score, flagged, [], self.settings.scheme))


def bits_of(payload: str) -> list[int]:
    """The bits of a payload as a policy writes it. Raises ValueError for what is neither text, bits nor bytes."""
    if payload.startswith("0b"):
        if set(payload[2:]) - {"0", "1"}:
            raise ValueError("bits are 0 and 1, after 0b")
        return [int(bit) for bit in payload[2:]]
    try:
        data = bytes.fromhex(payload[2:]) if payload.startswith("0x") else payload.encode()
    except ValueError:
        raise ValueError("bytes are pairs of 0-9 and a-f, after 0x") from None
    return [byte >> place & 1 for byte in data for place in range(7, -1, -1)]


def beyond_chance(count: int) -> float:
    """The share of ``count`` bits that are right by chance less often than CHANCE, each being so every other time."""
    tail = 0.0
    for right in range(count, -1, -1):
        tail += comb(count, right) / 2**count
        if tail > CHANCE:
            return (right + 1) / count
    raise AssertionError("all tails together are one")


def read(pictures: Tensor, count: int, scheme: str) -> Tensor | None:
    """Bits [n, count], bool, of pictures [n, 3, h, w] in [0, 1]; None where there are fewer blocks than bits."""
    height, width = (side // 4 * 4 for side in pictures.shape[-2:])
    if height // (2 * BLOCK) * (width // (2 * BLOCK)) < count:
        return None
    red, green, blue = (pictures.float().clamp(0, 1) * 255).round()[:, :, :height, :width].unbind(1)
    # In OpenCV's fixed point, of which 14 bits are behind the comma: exact in float32.
    luma = ((4899 * red + 9617 * green + 1868 * blue + ONE / 2) / ONE).floor()
    difference = ((8061 * (blue - luma) + ONE / 2) / ONE + 128).floor().clamp(0, 255)
    low = torch.nn.functional.avg_pool2d(difference[:, None], 2)[:, 0] * 2  # what Haar leaves of the lower half
    rows, columns = low.shape[1] // BLOCK, low.shape[2] // BLOCK
    blocks = low[:, : rows * BLOCK, : columns * BLOCK].unflatten(2, (columns, BLOCK)).unflatten(1, (rows, BLOCK))
    blocks = blocks.transpose(2, 3).flatten(1, 2)  # [n, blocks, 4, 4]
    greatest = blocks.flatten(2)[:, :, 1:].abs().amax(2)  # of all but the first, which writing leaves alone
    value = greatest if scheme == "dwtDct" else torch.linalg.matrix_norm(blocks, 2)  # the largest singular value
    votes = (value % STEP >= STEP / 2).float()
    whose = torch.arange(votes.shape[1], device=votes.device) % count
    sums = torch.zeros(len(votes), count, device=votes.device).index_add_(1, whose, votes)
    return sums / whose.bincount(minlength=count) >= 0.5
