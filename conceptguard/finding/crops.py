"""Pictures in overlapping squares, each read by an encoder: what finders factorise, and where in a picture it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import PolicyError
from ..finder import PictureSet
from ..making.progress import Tick, unseen

if TYPE_CHECKING:
    from ..protocols import PictureEncoder

LEAST = 8  # pictures; of fewer, what they have in common is what any of them shows
CELLS = 16  # a side of a map
AT_ONCE = 16  # pictures
FLAT = 12  # of 255: a picture that varies less in every colour shows nothing
SAME = 4  # of 255: pictures whose sixteenths differ less everywhere are one picture, saved again
ALIKE = 0.2  # of rows of length 1: crops that are nearer to their mean are all one thing to an encoder

# What was read of pictures, for as long as they are there: finders that are compared look at the same.
_read: WeakKeyDictionary[PictureSet, dict[tuple[int, float, float], Crops]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Crops:
    """rows: what the encoder says of each, [n, places, width], of length 1; boxes: of the places, left, top, right and
    bottom as shares of a side, [places, 4]"""

    rows: Tensor
    boxes: Tensor

    def maps(self, values: Tensor) -> Tensor:
        """[n, CELLS, CELLS] of one value for each crop, [n, places]: a cell has the mean of all that cover it."""
        covers = _covers(self.boxes)
        return ((values @ covers) / covers.sum(0).clamp(min=1e-9)).unflatten(1, (CELLS, CELLS))


def cut(pixels: Tensor, boxes: Tensor) -> Tensor:
    """Crops [n * places, 3, side, side] of pictures [n, 3, h, w]."""
    h, w = pixels.shape[-2:]
    parts = []
    for left, top, right, bottom in boxes.tolist():
        parts.append(pixels[..., round(top * h) : round(bottom * h), round(left * w) : round(right * w)])
    return torch.stack(parts, 1).flatten(0, 1)


def places(size: float, stride: float) -> Tensor:
    """Boxes of squares whose sides are a share ``size`` of the picture's, the next one ``stride`` of a square on."""
    steps = max(1, round((1 - size) / (stride * size)))
    at = [(1 - size) * i / steps for i in range(steps + 1)] if size < 1 else [0.0]
    return torch.tensor([[x, y, x + size, y + size] for y in at for x in at])


def look(pictures: PictureSet, encoder: PictureEncoder, size: float, stride: float, tick: Tick = unseen) -> Crops:
    """Read every crop. Raises PolicyError for pictures of which nothing can be told, that the encoder makes NaN of, or
    that it does not tell apart, as noise.

    A crop is held as one row of the encoder's width; pixels of ``AT_ONCE`` pictures at a time.
    """
    check(pictures)
    crops = read(pictures, encoder, size, stride, tick)
    rows = crops.rows.flatten(0, 1)
    apart = float((rows - rows.mean(0)).norm(dim=1).mean())
    if apart < ALIKE:
        raise PolicyError(
            f"to the encoder all that is in these pictures looks alike ({apart:.2f} from its mean, {ALIKE} or more is "
            "asked): it knows nothing of what they show, and concepts would be made up; give others, or --encoder"
        )
    return crops


def read(pictures: PictureSet, encoder: PictureEncoder, size: float, stride: float, tick: Tick = unseen) -> Crops:
    """The same of pictures that nothing need be told of."""
    known, key = _read.setdefault(pictures, {}), (id(encoder), size, stride)
    if key in known:
        return known[key]
    boxes = places(size, stride)
    rows = []
    for at in range(0, len(pictures), AT_ONCE):
        pixels = pictures.pixels[at : at + AT_ONCE]
        found = _each_once(cut(pixels, boxes), encoder).unflatten(0, (len(pixels), len(boxes)))
        if not bool(found.isfinite().all()):
            bad = int((~found.isfinite().flatten(1).all(1)).nonzero()[0]) + at
            raise PolicyError(
                f"the encoder says nothing finite of {pictures.names[bad]}: load it in fp32, or leave that picture out"
            )
        rows.append(found)
        tick(min(at + AT_ONCE, len(pictures)) - 1)
    known[key] = Crops(torch.cat(rows), boxes)
    return known[key]


def _each_once(crops: Tensor, encoder: PictureEncoder) -> Tensor:
    """Rows of crops, uint8; those that are the same, which an empty ground gives many of, are read once."""
    first: dict[bytes, int] = {}
    at = [first.setdefault(one.numpy().tobytes(), len(first)) for one in crops.contiguous().cpu()]
    which = [at.index(i) for i in range(len(first))]
    return encoder.pictures(crops[which].float() / 255)[at]


def part(pictures: PictureSet, rows: Sequence[int]) -> PictureSet:
    """Some of the pictures, with what was read of them."""
    rows = list(rows)
    some = PictureSet(pictures.pixels[rows], [pictures.names[i] for i in rows], [pictures.classes[i] for i in rows])
    _read[some] = {key: Crops(crops.rows[rows], crops.boxes) for key, crops in _read.get(pictures, {}).items()}
    return some


def check(pictures: PictureSet) -> None:
    """Raises PolicyError for too few pictures, for the same one again and again, also within a class, and for classes
    of one picture."""
    n = len(pictures)
    if n < LEAST:
        raise PolicyError(f"{n} pictures: give {LEAST} or more: what a few have in common is anything that they show")
    pixels = pictures.pixels.float().flatten(2)
    shows = (pixels.amax(2) - pixels.amin(2)).amax(1) > FLAT
    if int(shows.sum()) < LEAST:
        raise PolicyError(
            f"of {n} pictures {int(shows.sum())} show anything, the others are of one colour all over: give {LEAST} or "
            "more that do, or a concept would be made up"
        )
    small = F.adaptive_avg_pool2d(pictures.pixels.float(), 8).flatten(1)
    different = _different(small, LEAST)
    if different < LEAST:
        raise PolicyError(
            f"of {n} pictures {different} look different: give {LEAST} or more that differ, or nothing tells what of "
            "them is a concept"
        )
    for name in dict.fromkeys(pictures.classes):
        own = torch.tensor([one == name for one in pictures.classes])
        if int(own.sum()) < 2:
            raise PolicyError(f"class '{name}' has one picture: give two or more of each, or put all into one folder")
        if int(shows[own].sum()) < 2:
            raise PolicyError(
                f"class '{name}': {int(shows[own].sum())} of its {int(own.sum())} pictures show anything, the others "
                "are of one colour all over: give two or more that do"
            )
        if _different(small[own], 2) < 2:
            raise PolicyError(
                f"class '{name}': its {int(own.sum())} pictures look the same: give two or more that differ, or "
                "whatever is in that one would be what the class has in common"
            )
    if pictures.sorted and len(set(pictures.classes)) < 2:
        raise PolicyError(
            f"all pictures are of one class, '{pictures.classes[0]}': give another class beside it, or sort none"
        )


def _different(small: Tensor, enough: int) -> int:
    """How many of small pictures [n, values] are unlike all that were counted before, counted to ``enough``."""
    kept = small[:1]
    for one in small[1:]:
        if len(kept) == enough:
            break
        if float((kept - one).abs().amax(1).amin()) > SAME:
            kept = torch.cat([kept, one[None]])
    return len(kept)


def _covers(boxes: Tensor) -> Tensor:
    """How much of each cell a box covers, [places, cells]."""
    at = torch.arange(CELLS) / CELLS

    def along(low: Tensor, high: Tensor) -> Tensor:
        return (torch.minimum(high[:, None], at + 1 / CELLS) - torch.maximum(low[:, None], at)).clamp(min=0) * CELLS

    wide, high = along(boxes[:, 0], boxes[:, 2]), along(boxes[:, 1], boxes[:, 3])
    return (high[:, :, None] * wide[:, None, :]).flatten(1)
