"""What happens to an image that a guard flagged: flag, blur, black or reject; retry rejects what no retry mended."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import Refused
from ..generation.images import Images


def act(images: Images, action: str) -> Tensor:
    """Images after the policy's action, [n, 3, height, width] in [0, 1]; untouched ones are the same values.

    Raises Refused for ``reject`` and ``retry``: the caller gets no image at all.
    """
    flagged = [v for v in images.verdicts if v.flagged]
    if not flagged or action == "flag":
        return images.pixels
    if action in ("reject", "retry"):
        v = flagged[0]
        raise Refused(f"image {v.image} shows {v.label} ({v.guard}, score {v.score:.2f}): the policy rejects it")
    pixels = images.pixels.clone()
    for verdict in flagged:
        image = pixels[verdict.image]
        for left, top, right, bottom in verdict.boxes or [(0, 0, image.shape[-1], image.shape[-2])]:
            part = image[:, top:bottom, left:right]
            part.copy_(torch.zeros_like(part) if action == "black" else _blur(part))
    return pixels


def _blur(part: Tensor) -> Tensor:
    """Heavy enough that nothing is recognisable: down to 4 pixels on the long side, and back."""
    height, width = part.shape[-2:]
    small = max(1, round(4 * height / max(height, width))), max(1, round(4 * width / max(height, width)))
    return F.interpolate(F.adaptive_avg_pool2d(part[None], small), (height, width), mode="bilinear")[0]
