"""Whether a mark is in a picture, and where: detectors' boxes in bins, and what of it the denoiser learns from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from conceptguard.measuring.detectors import verdicts


def slots(pixels: Tensor, detectors: Sequence[str], grid: int, batch: int = 32) -> tuple[Tensor, Tensor]:
    """What detectors find in pictures [n, 3, h, w] in [0, 1].

    Gives (words, cover): words [n, detectors + grid²], bool: by which detectors something was found, and which bins of
    the picture it covers, row by row; cover [n, h, w], bool. Raises PolicyError for a method that looks at no pictures.
    """
    height, width = pixels.shape[-2:]
    words = torch.zeros(len(pixels), len(detectors) + grid * grid, dtype=torch.bool)
    cover = torch.zeros(len(pixels), height, width, dtype=torch.bool)
    for kind, name in enumerate(detectors):
        look = verdicts({"method": name})
        for at in range(0, len(pixels), batch):
            for verdict in look(pixels[at : at + batch]):
                if verdict.flagged:
                    words[at + verdict.image, kind] = True
                    for left, top, right, bottom in verdict.boxes:
                        cover[at + verdict.image, top:bottom, left:right] = True
    share = torch.nn.functional.adaptive_avg_pool2d(cover[:, None].float(), grid)
    words[:, len(detectors) :] = share.flatten(1) > 0
    return words, cover


def weights(cover: Tensor, size: tuple[int, int], alpha: float) -> Tensor:
    """What the error of every latent cell counts, [n, 1, height, width], with a mean of 1.

    T / (K + α (T − K)) inside of K covered cells of T, α times as much outside: what surrounds a mark is to be learnt
    sooner than the mark.
    """
    inside = torch.nn.functional.adaptive_max_pool2d(cover[:, None].float(), size)
    count, total = inside.sum((1, 2, 3), keepdim=True), size[0] * size[1]
    return torch.where(inside > 0, 1.0, alpha) * total / (count + alpha * (total - count))
