"""A pipeline's denoiser as a plain function, with its noise schedule: what methods that learn need of a framework."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import SessionError
from ...generation.conditioning import Encoded, stack
from ...runtime.frozen import frozen
from ...runtime.once import once
from ..denoising.attention_maps import looks
from ..denoising.noise_levels import NoiseLevels
from . import picture_prompts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from ...protocols import Looks

LARGE = 2**29  # bytes of weights


class Denoiser:
    """latents [rows, channels, h, w], timesteps [rows], conditions -> the raw model output, as ``latents``.

    name: of the component, under which its layers stand
    shape: (channels, height, width) of the latents the model was made for
    noise_levels: of its schedule, and what its output means there
    """

    name = "unet"

    def __init__(self, pipe: Any):
        self._module = getattr(pipe, self.name)
        size = self._module.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.shape = (int(self._module.config.in_channels), int(height), int(width))
        self._vae, self._scheduler = pipe.vae, pipe.scheduler
        self.noise_levels = NoiseLevels(pipe.scheduler)
        self._scale = int(getattr(pipe, "vae_scale_factor", 8))

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return once(self._module, "device", lambda: self._module.device, place=True)  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return once(self._module, "dtype", lambda: self._module.dtype, place=True)  # type: ignore[no-any-return]

    def __call__(self, latents: Tensor, timesteps: Tensor, conditions: Encoded) -> Tensor:
        """One call of the model, one timestep and one condition per row."""
        beside = self._beside(conditions, len(latents))
        device, dtype = self.device, self.dtype  # each is a walk through all modules
        out: Tensor = self._module(
            latents.to(device, dtype), timestep=timesteps.to(device), return_dict=False,
            encoder_hidden_states=conditions.embeds.to(device, dtype), **beside,
        )[0]  # fmt: skip
        return out

    def looks(self, latents: Tensor, timesteps: Tensor, conditions: Encoded) -> Looks:
        """What places look at in one call, see ``attention_maps``. Raises SessionError for what is no UNet."""
        return looks(self._module, lambda: self(latents, timesteps, conditions))

    def _beside(self, conditions: Encoded, rows: int) -> dict[str, Any]:
        beside: dict[str, Any] = picture_prompts.given(self._module, conditions.pictures, rows)
        if conditions.pooled is not None:
            height, width = self.picture_size
            ids = torch.tensor([height, width, 0, 0, height, width], dtype=self.dtype, device=self.device)
            pooled = conditions.pooled.to(self.device, self.dtype)
            beside |= {"text_embeds": pooled, "time_ids": ids.expand(rows, -1)}
        return {"added_cond_kwargs": beside} if beside else {}

    def reading_pictures(self, adapter: str) -> AbstractContextManager[None]:
        """Meanwhile it reads the pictures of its conditions. Raises PolicyError without such an adapter for it."""
        return picture_prompts.reading(self._module, adapter)

    def picture_prompts(self, adapter: str, encoder: str | None, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, h, w] in [0, 1] as conditions hold them, [n, tokens, width]."""
        return picture_prompts.tokens(adapter, encoder, pictures).to(self.device, self.dtype)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """No gradients for the model's own weights and no dropout meanwhile; everything as it was afterwards.

        Activations of a large model are computed again for gradients: those of a few states would fill a user's GPU.
        """
        large = sum(weight.nbytes for weight in self._module.parameters()) >= LARGE
        recompute = large and not self._module.is_gradient_checkpointing
        if recompute:
            self._module.enable_gradient_checkpointing()
        try:
            with frozen(self._module):
                yield
        finally:
            if recompute:
                self._module.disable_gradient_checkpointing()

    def timestep(self, share: float) -> int:
        """The timestep of a share of the schedule, from 0, hardly any noise, to 1, nothing else."""
        count = len(self._scheduler.alphas_cumprod)
        return min(int(share * count), count - 1)

    def timesteps(self, steps: int) -> list[int]:
        """DDIM's timesteps, noisiest first."""
        count = len(self._scheduler.alphas_cumprod)
        return [min(i * (count // steps) + 1, count - 1) for i in reversed(range(steps))]

    @torch.no_grad()
    def latents(self, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, h, w] in [0, 1], of the size that the model draws, as latents [n, channels, h, w]."""
        weight = next(self._vae.parameters())
        found = self._vae.encode(pictures.to(weight) * 2 - 1).latent_dist.mean
        return ((found - self._shift) * self._vae.config.scaling_factor).to(self.device, self.dtype)

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        """Latents [n, channels, h, w] as pictures [n, 3, h, w] in [0, 1]."""
        weight = next(self._vae.parameters())
        given = latents.to(weight) / self._vae.config.scaling_factor + self._shift
        return (self._vae.decode(given).sample.float() / 2 + 0.5).clamp(0, 1)

    @property
    def _shift(self) -> float:
        return getattr(self._vae.config, "shift_factor", None) or 0.0

    @property
    def picture_size(self) -> tuple[int, int]:
        """(height, width) of the pictures that the model was made for."""
        return self.shape[1] * self._scale, self.shape[2] * self._scale

    def ddim_step(self, output: Tensor, latents: Tensor, timestep: int, following: int) -> Tensor:
        """One deterministic DDIM step (Song et al. 2021) from ``timestep`` to ``following``; -1 is the end.

        Along a flow it is Euler's.
        """
        clean, noise = self.noise_levels.parts(latents, output, timestep)
        signal, spread = self.noise_levels.at(max(following, 0))
        return (signal * clean + spread * noise).to(latents.dtype)

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


class FlowDenoiser(Denoiser):
    """Stable Diffusion 3's: a transformer that says which way the picture is, between noise and it."""

    name = "transformer"

    def _beside(self, conditions: Encoded, rows: int) -> dict[str, Any]:
        assert conditions.pooled is not None
        return {"pooled_projections": conditions.pooled.to(self.device, self.dtype)}

    def timestep(self, share: float) -> int:
        """As the pipeline's schedule is shifted towards noise."""
        shift = float(self._scheduler.config.get("shift", 1.0))
        return round(1000 * shift * share / (1 + (shift - 1) * share))

    def timesteps(self, steps: int) -> list[int]:
        """Of a schedule of so many steps, noisiest first."""
        return [self.timestep(1 - i / steps) for i in range(steps)]


def denoiser_of(pipe: Any, called: str) -> Denoiser:
    """The pipeline's. called: how errors call it. Raises SessionError for kinds that no method learns on."""
    if getattr(pipe, "unet", None) is not None:
        return Denoiser(pipe)
    if type(pipe.transformer).__name__ == "SD3Transformer2DModel":
        return FlowDenoiser(pipe)
    raise SessionError(f"{called}: methods that learn do so on Stable Diffusion 1.x, 2.x, XL and 3: use uce")
