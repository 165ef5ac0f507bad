"""SAFREE's re-attention in the latent: low frequencies of the skip features that grew by the projection are damped.

Yoon et al., "SAFREE: Training-Free and Adaptive Guard for Safe Text-to-Image and Video Generation", ICLR 2025, section
4.3, after FreeU (Si et al., CVPR 2024). In the authors' code this part never runs; here it follows the paper: where a
low frequency of a skip feature is larger under the safe embeddings than under the prompt's own, it is multiplied by s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from conceptguard.generation.denoising import Conditions, Skips

RADIUS = 1  # frequencies -1, 0, 1 count as low: symmetric, so that what comes back is real
NOISE = 1e-3  # features that no text reaches are the same but for rounding, which must not decide


def damped(safe: Tensor, own: Tensor, scale: float) -> Tensor:
    """Features [..., h, w] under safe embeddings, low frequencies that exceed those of ``own`` times ``scale``."""
    found, other = (torch.fft.fft2(x.float()) for x in (safe, own))
    low = _low(safe.shape[-2], safe.device)[:, None] & _low(safe.shape[-1], safe.device)
    grown = low & (found.abs() > (1 + NOISE) * other.abs())
    return torch.fft.ifft2(torch.where(grown, scale * found, found)).real.to(safe.dtype)


def _low(size: int, device: torch.device) -> Tensor:
    return torch.fft.fftfreq(size, d=1 / size, device=device).abs() <= RADIUS


def reattend(conditions: Conditions, rows: Sequence[int], s1: float, s2: float) -> None:
    """Have the skip features of rows damped in this call, against what they are under their own embeddings.

    s1: of the up blocks with the most channels; s2: of those with the next fewer; others stay. One more denoiser call
    for the rows, and of a UNet only. To be called before the embeddings are changed.
    """
    assert conditions.skips is not None
    own = conditions.skips(rows)
    # What an up block is handed first comes from the deepest block of the down path that has its width.
    widths = [features[-1].shape[1] for features in own]
    ranks = sorted(set(widths), reverse=True)
    scales = {width: scale for width, scale in zip(ranks, (s1, s2))}
    conditions.change_skips(
        rows, {i: _damping(features, scales[w]) for i, (features, w) in enumerate(zip(own, widths)) if w in scales}
    )


def _damping(own: Skips, scale: float) -> Callable[[int, Tensor], Tensor]:
    return lambda place, safe: damped(safe, own[place], scale)
