"""A picture as what a generation starts from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import SessionError
from ...files.pictures import as_rgb


def fitted(pipe: Any, picture: Any) -> Any:
    """A PIL picture at the size that a UNet was made for, the middle of it where the shape is another.

    Raises SessionError for a pipeline without a UNet: its latents are not those of a picture as they stand.
    """
    from PIL import ImageOps

    if not hasattr(pipe, "unet"):
        raise SessionError(f"a {type(pipe).__name__} cannot start from a picture here: give a prompt instead")
    size = pipe.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    scale = pipe.vae_scale_factor
    return ImageOps.fit(as_rgb(picture), (width * scale, height * scale))


@torch.no_grad()
def latents_of_picture(pipe: Any, picture: Any) -> Tensor:
    """A PIL picture as clean latents, [1, channels, height, width]."""
    pixels = pipe.image_processor.preprocess(picture).to(pipe._execution_device, pipe.vae.dtype)
    return pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor  # type: ignore[no-any-return]
