"""Pictures with noise on them, and what a denoiser is to say about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..protocols import Denoiser


def noised(denoiser: Denoiser, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """(noised latents, what the denoiser should predict there), both [rows, channels, h, w], float32.

    clean, noise: [rows, channels, h, w]; timesteps: [rows]. By the model's own prediction: ε, velocity, flow or sample.
    """
    levels = denoiser.noise_levels
    found = torch.tensor([levels.at(t) for t in timesteps.tolist()], device=clean.device)
    signal, spread = found.T[..., None, None, None]
    clean, noise = clean.float(), noise.to(clean.device).float()
    wanted = {
        "v_prediction": signal * noise - spread * clean, "sample": clean, "flow_prediction": noise - clean,
    }.get(levels.prediction, noise)  # fmt: skip
    return signal * clean + spread * noise, wanted


def clean(denoiser: Denoiser, latents: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
    """The clean latents that predictions mean, [rows, channels, h, w], float32, each at its own noise level."""
    rows = zip(latents.split(1), prediction.split(1), timesteps.tolist())
    return torch.cat([denoiser.noise_levels.parts(own, said, time)[0] for own, said, time in rows])


def losses(prediction: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared errors of rows, [rows], float32."""
    return (prediction.float() - wanted.to(prediction.device)).pow(2).mean((1, 2, 3))
