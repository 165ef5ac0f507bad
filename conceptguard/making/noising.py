"""Pictures with noise on them, and what a denoiser is to say about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..protocols import Denoiser


def noised(denoiser: Denoiser, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """(noised latents, what the denoiser should predict there), both [rows, channels, h, w], float32.

    clean, noise: [rows, channels, h, w]; timesteps: [rows]. By the model's own prediction: ε, velocity or sample.
    """
    alphas = denoiser.alphas[timesteps.cpu()].float().to(clean.device)[:, None, None, None]
    signal, spread = alphas.sqrt(), (1 - alphas).sqrt()
    clean, noise = clean.float(), noise.to(clean.device).float()
    wanted = {"v_prediction": signal * noise - spread * clean, "sample": clean}.get(denoiser.prediction, noise)
    return signal * clean + spread * noise, wanted


def losses(prediction: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared errors of rows, [rows], float32."""
    return (prediction.float() - wanted.to(prediction.device)).pow(2).mean((1, 2, 3))


@torch.no_grad()
def clean_of(denoiser: Denoiser, latents: Tensor, prediction: Tensor, timestep: int) -> Tensor:
    """What a denoiser takes for the picture in latents at one timestep."""
    alpha = float(denoiser.alphas[timestep])
    signal, spread = alpha**0.5, (1 - alpha) ** 0.5
    if denoiser.prediction == "sample":
        return prediction
    if denoiser.prediction == "v_prediction":
        return signal * latents - spread * prediction
    return (latents - spread * prediction) / signal
