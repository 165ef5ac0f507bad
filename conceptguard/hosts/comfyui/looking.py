"""A ComfyUI model that a finder looks through: nothing is sampled, trained or guarded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import SessionError
from ..denoising.attention_maps import looks
from ..denoising.families import FAMILIES
from .host import ComfyHost

if TYPE_CHECKING:
    from ...generation.conditioning import Encoded
    from ...protocols import Looks

SIDES = 8  # cells of the smallest attention that tells places apart


class LookingHost(ComfyHost):
    """A MODEL, CLIP and VAE, and a picture [3, h, w] in [0, 1] of the size that the model draws.

    Raises SessionError for other models than Stable Diffusion 1.x and 2.x, and for a picture that is no square.
    """

    def __init__(self, model: Any, clip: Any, vae: Any, size: tuple[int, int]):
        super().__init__((model, clip))
        if self.base is None or self.family is not FAMILIES["UNet2DConditionModel"]:
            raise SessionError(f"{self.name}: pictures are looked at through Stable Diffusion 1.x and 2.x")
        if size[0] != size[1] or size[0] % SIDES:
            raise SessionError(
                f"a picture of {size[1]} x {size[0]}: give a square one, as the size that the model draws"
            )
        self._vae, self._size = vae, size

    def denoiser(self) -> ComfyDenoiser:  # type: ignore[override]
        """It answers, and has no gradients."""
        return ComfyDenoiser(self, self._vae, self._size)


class ComfyDenoiser:
    """As ``protocols.Denoiser``, of what a finder asks without learning."""

    name = "unet"

    def __init__(self, host: LookingHost, vae: Any, size: tuple[int, int]):
        from comfy import model_management

        model_management.load_models_gpu([host.patcher])
        self._host, self._vae, self.picture_size = host, vae, size
        self._module = host.base.diffusion_model
        channels = int(host.base.latent_format.latent_channels)
        self.shape = (channels, *(side // int(vae.spacial_compression_encode()) for side in size))
        self.noise_levels = host.noise_levels()

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._host.device_dtype()[0]

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._host.device_dtype()[1]

    @torch.no_grad()
    def __call__(self, latents: Tensor, timesteps: Tensor, conditions: Encoded) -> Tensor:
        """One call of the model, one timestep and one condition per row."""
        device, dtype = self._host.device_dtype()
        out: Tensor = self._module(
            latents.to(device, dtype), timesteps.to(device).float(), context=conditions.embeds.to(device, dtype)
        )
        return out

    def looks(self, latents: Tensor, timesteps: Tensor, conditions: Encoded) -> Looks:
        """What places look at in one call."""
        return looks(self._module, lambda: self(latents, timesteps, conditions))

    def latents(self, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, height, width] in [0, 1] as latents."""
        encoded: Tensor = self._host.base.latent_format.process_in(self._vae.encode(pictures.movedim(1, -1)))
        return encoded

    def timestep(self, share: float) -> int:
        """The timestep of a share of the schedule, from 0, hardly any noise, to 1, nothing else."""
        count = len(self._host.base.model_sampling.sigmas)
        return min(int(share * count), count - 1)
