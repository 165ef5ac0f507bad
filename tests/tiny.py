"""Tiny pipelines with random weights, one per architecture: whole diffusers pipelines that denoise in milliseconds."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from moulds import moulded
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from conceptguard.registry import default_registry

WIDTH = 32


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer, from the embedded model."""
    return CLIPTokenizer.from_pretrained(str(default_registry().model("emoji-sd") / "tokenizer"))


@moulded
def tiny_sd(tokenizer: Any, seed: int = 0) -> StableDiffusionPipeline:
    """Stable Diffusion 1.x: 64 px, latents [4, 8, 8]."""
    torch.manual_seed(seed)
    pipe = StableDiffusionPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_text(tokenizer)).eval(), tokenizer=tokenizer, unet=_unet(WIDTH),
        scheduler=_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@moulded
def tiny_sdxl(tokenizer: Any, seed: int = 0) -> StableDiffusionXLPipeline:
    """SDXL: two text encoders with a tokenizer each, pooled embeddings, time ids."""
    torch.manual_seed(seed)
    unet = _unet(
        2 * WIDTH, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )  # fmt: skip
    pipe = StableDiffusionXLPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_text(tokenizer)).eval(), tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(_text(tokenizer)).eval(), tokenizer_2=tokenizer, unet=unet,
        scheduler=_scheduler(), add_watermarker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _unet(context: int, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=context, **more,
    ).eval()  # fmt: skip


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=4, sample_size=64,
    ).eval()  # fmt: skip


def _text(tokenizer: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
        num_attention_heads=4, projection_dim=WIDTH, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def generate(pipe: Any, prompts: Any, seeds: Any = None, **options: Any) -> torch.Tensor:
    """Latents [rows, 4, 8, 8] after two steps, row i from ``seeds[i]`` (by default i)."""
    count = 1 if isinstance(prompts, str) else len(prompts) if prompts is not None else len(options["prompt_embeds"])
    count *= options.get("num_images_per_prompt", 1)
    generators = [torch.Generator().manual_seed(s) for s in seeds or range(count)]
    options = {"num_inference_steps": 2, "output_type": "latent", **options}
    return pipe(prompt=prompts, generator=generators, **options).images
