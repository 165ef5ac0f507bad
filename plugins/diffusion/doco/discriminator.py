"""What tells the predictions of one concept from those of another, patch by patch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

ANCHOR, CONCEPT = 0.0, 1.0  # its labels


def patch_discriminator(channels: int, width: int) -> nn.Sequential:
    """Clean latents [rows, channels, h, w] -> one logit for every patch, [rows, 1, h / 4, w / 4].

    Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017. Norms take the batch's
    own statistics, so that its weights are all there is to it.
    """
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width, track_running_stats=False),
        nn.LeakyReLU(0.2), nn.Conv2d(2 * width, 1, 3, 1, 1),
    )  # fmt: skip


def taken_for(logits: Tensor, label: float) -> Tensor:
    """How far logits are from a label, mean binary cross-entropy."""
    return F.binary_cross_entropy_with_logits(logits, logits.new_full(logits.shape, label))


def right(anchors: Tensor, concepts: Tensor) -> float:
    """The share of patches that it tells right, over both alike."""
    return float(((anchors < 0).float().mean() + (concepts >= 0).float().mean()) / 2)
