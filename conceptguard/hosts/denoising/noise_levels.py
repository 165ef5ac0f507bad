"""How much picture and how much noise latents hold, as the denoiser is given them, at any timestep of any schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class NoiseLevels:
    """latents = signal · clean + noise · ε, in the units of the denoiser's input.

    Every scheduler scales its state to these: for denoisers of noise or velocity signal² + noise² = 1, after
    the scheduler's ``alphas_cumprod``; for flow matching signal = 1 − noise, and noise is the timestep, of 1,000.
    """

    def __init__(self, scheduler: Any):
        self.prediction = str(scheduler.config.get("prediction_type", "flow_prediction"))
        self.flow = self.prediction == "flow_prediction" or not hasattr(scheduler, "alphas_cumprod")
        if not self.flow:
            alphas = scheduler.alphas_cumprod.double()
            self._ratio = ((1 - alphas) / alphas).log() / 2  # of noise to signal

    def at(self, timestep: Tensor | float) -> tuple[float, float]:
        """(signal, noise). Between two timesteps the logarithm of their ratio is linear, as in diffusers."""
        t = float(torch.as_tensor(timestep).max())
        if self.flow:
            return 1 - t / 1000, t / 1000
        t = min(max(t, 0.0), len(self._ratio) - 1)
        below = int(t)
        above = min(below + 1, len(self._ratio) - 1)
        ratio = float(torch.lerp(self._ratio[below], self._ratio[above], t - below).exp())
        signal = (1 + ratio * ratio) ** -0.5
        return signal, signal * ratio

    def parts(self, latents: Tensor, prediction: Tensor, timestep: Tensor | float) -> tuple[Tensor, Tensor]:
        """(clean, ε) of what a denoiser was given and what it predicted, float32."""
        signal, noise = self.at(timestep)
        x, p = latents.float(), prediction.float()
        if self.flow:
            return x - noise * p, x + signal * p
        if self.prediction == "v_prediction":
            return signal * x - noise * p, noise * x + signal * p
        if self.prediction == "sample":
            return p, (x - signal * p) / noise
        return (x - noise * p) / signal, p
