"""The four parts of emoji-sd, in Stable Diffusion 1's own shapes, only narrower."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

SIZE = 128  # pixels; latents are [4, 16, 16], because f = 8 as in SD1
HIDDEN = 128  # width of the text encoder, hence the UNet's cross-attention dimension
BOS, EOS, VOCAB = 49406, 49407, 49408


def make_vae(latent_channels: int = 4, **more: Any) -> AutoencoderKL:
    """1.0 M parameters. Code for SD1 fixes GroupNorm at 32 groups, so no level has fewer than 32 channels.

    more: of diffusers' configuration, where another family has it otherwise
    """
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=32,
        sample_size=SIZE,
        **more,
    )


def make_unet() -> UNet2DConditionModel:
    """10.9 M parameters. `attention_head_dim` is the number of heads here, as SD1's configuration has it."""
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=HIDDEN,
        attention_head_dim=8,
        norm_num_groups=32,
    )


def make_text_encoder() -> CLIPTextModel:
    """7 M parameters, nearly all of them CLIP's 49,408 embeddings."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            intermediate_size=4 * HIDDEN,
            projection_dim=HIDDEN,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=EOS,
        )
    )


def alphas_cumprod(steps: int = 1000) -> torch.Tensor:
    """SD1's scaled-linear noise schedule, [steps]."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()
