"""Pipelines of the size that people use, with random weights: what benchmarks time where no weights are at hand."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


def stable_diffusion_15(small: Any, dtype: torch.dtype, text_layers: int) -> Any:
    """The UNet and the layers of the text encoder have Stable Diffusion 1.5's own configuration."""
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(
        sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, cross_attention_dim=768,
        attention_head_dim=8,
    )  # fmt: skip
    words = small.text_encoder.config.vocab_size
    text = CLIPTextConfig(
        vocab_size=words, hidden_size=768, intermediate_size=3072, num_hidden_layers=text_layers,
        num_attention_heads=12, eos_token_id=small.text_encoder.config.eos_token_id,
    )  # fmt: skip
    parts = {**small.components, "unet": unet.eval().to(dtype), "text_encoder": CLIPTextModel(text).eval().to(dtype)}
    return type(small)(**parts, requires_safety_checker=False)
