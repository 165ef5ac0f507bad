"""Keys and values of their own for four tokens that are made of a picture, beside those of the text.

Learnt is to say of a picture what the model says of its caption: that is known to the last bit, while the noise that
was added to one picture says next to nothing of what is in it.

Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models", 2023.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from ..emoji_encoder.model import MEAN, SIZE, SPREAD
from ..emoji_sd_siblings.pictures import Taught
from ..emoji_sd_siblings.train import Recipe, descend

TOKENS = 4
SILENT, BLIND = 0.5, 0.1  # shares of rows without a caption, and without a picture


@torch.no_grad()
def seen(encoder: CLIPVisionModelWithProjection, pictures: np.ndarray, device: torch.device) -> Tensor:
    """What the encoder makes of uint8 pictures [n, h, w, 3]: [n, width], as diffusers hands it to an adapter."""
    mean, spread = (torch.tensor(each, device=device).view(3, 1, 1) for each in (MEAN, SPREAD))
    found = []
    for at in range(0, len(pictures), 256):
        pixels = torch.from_numpy(pictures[at : at + 256]).to(device).permute(0, 3, 1, 2).float() / 255
        small = torch.nn.functional.interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True)
        found.append(encoder((small - mean) / spread).image_embeds)
    return torch.cat(found)


def trained(unet: Any, data: Taught, embeds: Tensor, nothing: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """The adapter's tensors, by IP-Adapter's names. embeds: of each picture, [n, width]; nothing: the empty caption.

    Where text is left out there is a picture, and where the picture is, there is text.
    """
    device, random = data.latents.device, torch.Generator(data.latents.device).manual_seed(recipe.seed + 1)
    unet.to(device).requires_grad_(False)
    unet._load_ip_adapter_weights([begun(unet, embeds.shape[1])], low_cpu_mem_usage=False)
    own = [unet.encoder_hid_proj, *(it for it in unet.attn_processors.values() if hasattr(it, "to_k_ip"))]
    learnt = [p for it in own for p in it.requires_grad_().parameters()]

    def asked(noisy: Tensor, times: Tensor, text: Tensor, pictures: Tensor, scale: float) -> Tensor:
        for it in own[1:]:
            it.scale = [scale]
        return unet(noisy, times, text, added_cond_kwargs={"image_embeds": [pictures[:, None]]}).sample

    def said(noisy: Tensor, times: Tensor, captions: Tensor, rows: Tensor) -> Tensor:
        draw = torch.rand(len(rows), 1, generator=random, device=device)
        text = torch.where(draw[:, :, None] < SILENT, nothing, captions)
        return asked(noisy, times, text, torch.where(draw > 1 - BLIND, 0.0, embeds[rows]), 1.0)

    def goal(noisy: Tensor, times: Tensor, captions: Tensor, rows: Tensor) -> Tensor:
        return asked(noisy, times, captions, embeds[rows], 0.0)

    descend(said, data, recipe, learnt, goal)
    return _written(unet)


def begun(unet: Any, width: int) -> dict[str, dict[str, Tensor]]:
    """An adapter that reads what it is given with the keys of the text, and says nothing yet."""
    inner = unet.config.cross_attention_dim
    random = torch.Generator().manual_seed(0)
    proj = (torch.rand(TOKENS * inner, width, generator=random) * 2 - 1) / math.sqrt(width)
    found = {"proj.weight": proj, "proj.bias": torch.zeros(TOKENS * inner)}
    found |= {"norm.weight": torch.ones(inner), "norm.bias": torch.zeros(inner)}
    layers = {}
    for number, name in enumerate(unet.attn_processors):
        if ".attn2." in name:
            keys = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.detach().clone()
            layers |= {f"{number}.to_k_ip.weight": keys, f"{number}.to_v_ip.weight": torch.zeros_like(keys)}
    return {"image_proj": found, "ip_adapter": layers}


def _written(unet: Any) -> dict[str, Tensor]:
    (projection,) = unet.encoder_hid_proj.image_projection_layers
    found = {f"image_proj.proj.{name}": it for name, it in projection.image_embeds.state_dict().items()}
    found |= {f"image_proj.norm.{name}": it for name, it in projection.norm.state_dict().items()}
    for number, it in enumerate(unet.attn_processors.values()):
        if hasattr(it, "to_k_ip"):
            for name in ("to_k_ip", "to_v_ip"):
                found[f"ip_adapter.{number}.{name}.weight"] = getattr(it, name)[0].weight
    return {name: it.detach().cpu().half().contiguous() for name, it in found.items()}
