"""Tiny pipelines with random weights whose denoiser is a transformer: Stable Diffusion 3, FLUX, Wan (video)."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from moulds import moulded
from tiny import WIDTH, _text
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from conceptguard.runtime.encodings import ordinary_captions

T5_WIDTH = 2 * WIDTH


@cache
def t5_tokenizer() -> T5Tokenizer:
    """A unigram tokenizer of the words of ordinary captions and of the tests, and of single letters."""
    words = {w.strip(".,").lower() for caption in ordinary_captions() for w in caption.split()}
    words = sorted(words | {"cigarette", "smoking", "pistol"})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("\u2581", -6.0)]
    pieces += [(f"\u2581{w}", -5.0) for w in words if w] + [(chr(c), -12.0) for c in range(33, 127)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


@moulded
def tiny_sd3(tokenizer: Any, seed: int = 0) -> StableDiffusion3Pipeline:
    """Stable Diffusion 3: two CLIP encoders side by side, T5 behind them, pooled embeddings; latents [4, 16, 16]."""
    torch.manual_seed(seed)
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=T5_WIDTH, caption_projection_dim=32, pooled_projection_dim=2 * WIDTH, out_channels=4,
        pos_embed_max_size=16,
    )  # fmt: skip
    return _quiet(StableDiffusion3Pipeline(
        transformer=transformer.eval(), scheduler=FlowMatchEulerDiscreteScheduler(), vae=_vae(4),
        text_encoder=CLIPTextModelWithProjection(_text(tokenizer)).eval(), tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(_text(tokenizer)).eval(), tokenizer_2=tokenizer,
        text_encoder_3=_t5(), tokenizer_3=t5_tokenizer(),
    ))  # fmt: skip


@moulded
def tiny_flux(tokenizer: Any, seed: int = 0) -> FluxPipeline:
    """FLUX: T5 embeddings, CLIP pooled ones, latents as patches in a row."""
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=T5_WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    return _quiet(FluxPipeline(
        transformer=transformer.eval(), scheduler=FlowMatchEulerDiscreteScheduler(), vae=_vae(4),
        text_encoder=CLIPTextModel(_text(tokenizer)).eval(), tokenizer=tokenizer,
        text_encoder_2=_t5(), tokenizer_2=t5_tokenizer(),
    ))  # fmt: skip


@moulded
def tiny_wan(tokenizer: Any, seed: int = 0) -> WanPipeline:
    """Wan, text to video: UMT5 embeddings, latents [16, frames, h, w], a call of the denoiser for each branch."""
    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=len(t5_tokenizer()), d_model=T5_WIDTH, d_kv=8, d_ff=64, num_layers=1, num_heads=4,
    )  # fmt: skip
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=T5_WIDTH, freq_dim=32, ffn_dim=32, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32,
    )  # fmt: skip
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return _quiet(WanPipeline(
        transformer=transformer.eval(), scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae.eval(),
        text_encoder=UMT5EncoderModel(config).eval(), tokenizer=t5_tokenizer(),
    ))  # fmt: skip


def generate(pipe: Any, prompts: list[str], seeds: list[int] | None = None, **options: Any) -> torch.Tensor:
    """Latents after two steps, row i from ``seeds[i]`` (by default i)."""
    generators = [torch.Generator().manual_seed(s) for s in seeds or range(len(prompts))]
    size = (
        {"height": 16, "width": 16, "num_frames": 5} if isinstance(pipe, WanPipeline) else {"height": 32, "width": 32}
    )
    made = {"num_inference_steps": 2, "output_type": "latent", "max_sequence_length": 32, **size, **options}
    out = pipe(prompt=prompts, generator=generators, **made)
    return torch.as_tensor(out.frames if isinstance(pipe, WanPipeline) else out.images)


def _vae(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4, sample_size=64,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=channels, use_quant_conv=False,
        use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5,
    ).eval()  # fmt: skip


def _t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(t5_tokenizer()), d_model=T5_WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
    )  # fmt: skip
    return T5EncoderModel(config).eval()


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe
