"""A pipeline's denoiser as a plain function, with its noise schedule: what methods that learn need of a framework."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...generation.conditioning import Encoded, stack
from ...runtime.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator


class Denoiser:
    """latents [rows, channels, h, w], timesteps [rows], conditions -> the raw model output, as ``latents``.

    shape: (channels, height, width) of the latents the model was made for
    alphas: cumulative products of the noise schedule, [training steps]
    prediction: "epsilon", "v_prediction" or "sample"
    """

    def __init__(self, pipe: Any):
        self._unet = pipe.unet
        size = pipe.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.shape = (int(pipe.unet.config.in_channels), int(height), int(width))
        self._vae = pipe.vae
        self.alphas: Tensor = pipe.scheduler.alphas_cumprod.double()
        self.prediction: str = pipe.scheduler.config.prediction_type
        self._scale = int(getattr(pipe, "vae_scale_factor", 8))

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._unet.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._unet.dtype  # type: ignore[no-any-return]

    def __call__(self, latents: Tensor, timesteps: Tensor, conditions: Encoded) -> Tensor:
        """One call of the UNet, one timestep and one condition per row."""
        extra = {}
        if conditions.pooled is not None:
            height, width = (n * self._scale for n in self.shape[1:])
            ids = torch.tensor([height, width, 0, 0, height, width], dtype=self.dtype, device=self.device)
            extra["added_cond_kwargs"] = {
                "text_embeds": conditions.pooled.to(self.device, self.dtype),
                "time_ids": ids.expand(len(latents), -1),
            }
        out: Tensor = self._unet(
            latents.to(self.device, self.dtype), timesteps.to(self.device),
            conditions.embeds.to(self.device, self.dtype), return_dict=False, **extra,
        )[0]  # fmt: skip
        return out

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """No gradients for the model's own weights and no dropout meanwhile; everything as it was afterwards."""
        with frozen(self._unet):
            yield

    def timesteps(self, steps: int) -> list[int]:
        """DDIM's timesteps, noisiest first."""
        spacing = len(self.alphas) // steps
        return [min(i * spacing + 1, len(self.alphas) - 1) for i in reversed(range(steps))]

    @torch.no_grad()
    def latents(self, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, h, w] in [0, 1], of the size that the model draws, as latents [n, channels, h, w]."""
        weight = next(self._vae.parameters())
        found = self._vae.encode(pictures.to(weight) * 2 - 1).latent_dist.mean
        shift = getattr(self._vae.config, "shift_factor", None) or 0.0
        return ((found - shift) * self._vae.config.scaling_factor).to(self.device, self.dtype)

    @property
    def picture_size(self) -> tuple[int, int]:
        """(height, width) of the pictures that the model was made for."""
        return self.shape[1] * self._scale, self.shape[2] * self._scale

    def ddim_step(self, output: Tensor, latents: Tensor, timestep: int, following: int) -> Tensor:
        """One deterministic DDIM step (Song et al. 2021) from ``timestep`` to ``following``; -1 is the end."""
        now = float(self.alphas[timestep])
        then = float(self.alphas[max(following, 0)])
        signal, spread = now**0.5, (1 - now) ** 0.5
        if self.prediction == "v_prediction":
            clean, noise = signal * latents - spread * output, signal * output + spread * latents
        elif self.prediction == "sample":
            clean, noise = output, (latents - signal * output) / spread
        else:
            clean, noise = (latents - spread * output) / signal, output
        return then**0.5 * clean + (1 - then) ** 0.5 * noise

    @torch.no_grad()
    def trajectories(self, noise: Tensor, conditions: Encoded, nothing: Encoded, steps: int, guidance: float) -> Tensor:
        """Every state of a guided DDIM run, [steps, rows, channels, h, w]: state i is what step i starts from.

        noise: [rows, ...]; conditions: rows; nothing: the same number of unconditional rows.
        """
        both = stack(nothing, conditions)
        latents, states, times = noise.to(self.device, self.dtype), [], self.timesteps(steps)
        for i, t in enumerate(times):
            states.append(latents)
            if i == len(times) - 1:
                break
            at = torch.full((2 * len(noise),), t)
            without, towards = self(latents.repeat(2, 1, 1, 1), at, both).chunk(2)
            latents = self.ddim_step(without + guidance * (towards - without), latents, t, times[i + 1])
        return torch.stack(states)
