"""Tiny models with random weights that are the same in ComfyUI and in diffusers: SDXL, FLUX, SD 3, Wan.

Full-sized ones are told by their shapes; here the configuration is given, and every weight is copied by the map from
diffusers' names that ComfyUI has for LoRAs.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from tiny import WIDTH, _text, tiny_sdxl
from torch import nn

from conceptguard.hosts.comfyui.load import Parts

WORDS = 300  # pieces that the text encoder of Wan knows


def sdxl_pipe(tokenizer: Any) -> Any:
    """A tiny SDXL pipeline of a shape that ComfyUI can have: 32 groups, 256 numbers for each size."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    pipe = tiny_sdxl(tokenizer)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=32, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * WIDTH, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=6 * 256 + WIDTH, use_linear_projection=True,
    ).eval()  # fmt: skip
    # ComfyUI wants a layer before the last but one.
    text = CLIPTextConfig(**{**_text(tokenizer).to_dict(), "num_hidden_layers": 3})
    encoders = CLIPTextModel(text).eval(), CLIPTextModelWithProjection(text).eval()
    second = copy.deepcopy(tokenizer)
    second.pad_token = "!"  # as SDXL's own second tokenizer
    pipe.register_modules(
        unet=unet, text_encoder=encoders[0], text_encoder_2=encoders[1], tokenizer=tokenizer, tokenizer_2=second
    )
    return pipe


def sdxl_parts(pipe: Any) -> Parts:
    """The same in ComfyUI, with both of its text encoders."""
    import comfy.sd
    import comfy.sdxl_clip
    import comfy.supported_models
    import comfy.supported_models_base
    import comfy.utils

    kind = comfy.supported_models.SDXL({
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "channel_mult": [1, 2],
        "num_res_blocks": [1, 1], "transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1],
        "transformer_depth_middle": 1, "context_dim": 2 * WIDTH, "use_spatial_transformer": True, "legacy": False,
        "use_linear_in_transformer": True, "adm_in_channels": 6 * 256 + WIDTH, "use_temporal_attention": False,
        "num_classes": "sequential",
    })  # fmt: skip
    kind.unet_config.update(num_heads=4, num_head_channels=-1)
    model = _model(kind, comfy.utils.unet_to_diffusers(kind.unet_config), pipe.unet)
    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    shape = {
        "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4,
        "hidden_act": "quick_gelu", "projection_dim": WIDTH,
    }  # fmt: skip
    clip = comfy.sd.CLIP(
        target, model_options={"dtype": torch.float32, "clip_l_model_config": shape, "clip_g_model_config": shape}
    )
    encoders = clip.cond_stage_model
    for mine, theirs in ((encoders.clip_l, pipe.text_encoder), (encoders.clip_g, pipe.text_encoder_2)):
        weights = {
            name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}": w
            for name, w in theirs.state_dict().items()
        }
        weights.setdefault("text_projection.weight", torch.eye(WIDTH))
        missing = mine.load_sd(weights)[0]
        assert not [name for name in missing if name != "logit_scale"], missing
    return Parts(model, clip, None)


def flux_parts(pipe: Any) -> Parts:
    """A tiny FLUX of the transformer of ``pipe``; its T5 has weights of its own, since tokens differ."""
    import comfy.ldm.flux.model
    import comfy.supported_models
    import comfy.text_encoders.flux
    import comfy.utils

    shape = {
        "image_model": "flux", "in_channels": 4, "out_channels": 4, "vec_in_dim": WIDTH, "context_in_dim": 2 * WIDTH,
        "hidden_size": 32, "mlp_ratio": 4.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
        "axes_dim": [4, 4, 8], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
    }  # fmt: skip
    if "txt_ids_dims" in comfy.ldm.flux.model.FluxParams.__annotations__:  # newer cores
        shape["txt_ids_dims"] = []
    kind = comfy.supported_models.Flux(shape)
    model = _model(kind, comfy.utils.flux_to_diffusers(kind.unet_config), pipe.transformer)
    encoder = comfy.text_encoders.flux.flux_clip(dtype_t5=torch.float32)
    return Parts(model, _random_clip(comfy.text_encoders.flux.FluxTokenizer, encoder, 2 * WIDTH), None)


def sd3_pipe(tokenizer: Any) -> Any:
    """A tiny Stable Diffusion 3 of a shape that ComfyUI can have: heads of 64, embeddings of 4,096."""
    from diffusers import SD3Transformer2DModel
    from tiny_transformers import tiny_sd3

    pipe = tiny_sd3(tokenizer)
    torch.manual_seed(0)
    pipe.register_modules(transformer=SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=64, num_attention_heads=2,
        joint_attention_dim=4096, caption_projection_dim=128, pooled_projection_dim=2 * WIDTH, out_channels=16,
        pos_embed_max_size=8,
    ).eval())  # fmt: skip
    return pipe


def sd3_parts(pipe: Any) -> Parts:
    """The same in ComfyUI; its text encoders have weights of their own."""
    import comfy.supported_models
    import comfy.text_encoders.sd3_clip
    import comfy.utils

    kind = comfy.supported_models.SD3({
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "input_size": None,
        "adm_in_channels": 2 * WIDTH, "pos_embed_max_size": 8, "num_patches": 64, "pos_embed_scaling_factor": None,
        "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128},
        },
    })  # fmt: skip
    model = _model(kind, comfy.utils.mmdit_to_diffusers(kind.unet_config), pipe.transformer)
    encoder = comfy.text_encoders.sd3_clip.sd3_clip(dtype_t5=torch.float32)
    return Parts(model, _random_clip(comfy.text_encoders.sd3_clip.SD3Tokenizer, encoder, 4096), None)


def wan_parts(pipe: Any) -> Parts:
    """A tiny Wan of the transformer of ``pipe``; its text encoder has words and weights of its own."""
    import comfy.supported_models
    import comfy.text_encoders.wan

    from conceptguard.hosts.comfyui.layers import _places

    config = pipe.transformer.config
    kind = comfy.supported_models.WAN21_T2V({
        "image_model": "wan2.1", "model_type": "t2v", "dim": 24, "num_heads": 2, "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim, "num_layers": 2, "in_dim": 16, "out_dim": 16, "text_dim": config.text_dim,
        "patch_size": (1, 2, 2), "qk_norm": True, "cross_attn_norm": True,
    })  # fmt: skip
    places = _places(kind.unet_config)
    places |= {
        name.replace(".weight", ".bias"): str(place).replace(".weight", ".bias") for name, place in places.items()
    }
    places["scale_shift_table"] = "head.modulation"
    for n in range(2):
        places[f"blocks.{n}.scale_shift_table"] = f"blocks.{n}.modulation"
        for part, end in itertools.product((1, 2), ("q", "k")):
            mine = f"blocks.{n}.{'self' if part == 1 else 'cross'}_attn.norm_{end}.weight"
            places[f"blocks.{n}.attn{part}.norm_{end}.weight"] = mine
        places |= {f"blocks.{n}.norm2.{end}": f"blocks.{n}.norm3.{end}" for end in ("weight", "bias")}
    model = _model(kind, places, pipe.transformer)
    words = {"spiece_model": _sentencepiece()}
    encoder = comfy.text_encoders.wan.te(dtype_t5=torch.float32)
    return Parts(model, _random_clip(comfy.text_encoders.wan.WanT5Tokenizer, encoder, config.text_dim, words), None)


def _sentencepiece() -> bytes:
    """A small vocabulary of ordinary captions and of the tests."""
    import io

    import sentencepiece

    from conceptguard.runtime.encodings import ordinary_captions

    texts = [*ordinary_captions(), *["a man smoking a cigarette", "a red apple"] * 50]
    found = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=found, vocab_size=WORDS, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    return found.getvalue()


def _random_clip(tokenizer: Any, encoder: Any, t5_width: int, words: Any = {}) -> Any:  # noqa: B006
    """A CLIP of small encoders with random weights."""
    import comfy.sd
    import comfy.supported_models_base

    clip_shape = {
        "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "projection_dim": WIDTH,
    }  # fmt: skip
    t5_shape = {"d_model": t5_width, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    if words:
        t5_shape |= {"vocab_size": WORDS, "num_layers": 1}
    options = {"dtype": torch.float32, "clip_l_model_config": clip_shape, "clip_g_model_config": clip_shape}
    options |= {"t5xxl_model_config": t5_shape, "umt5xxl_model_config": t5_shape}
    target = comfy.supported_models_base.ClipTarget(tokenizer, encoder)
    clip = comfy.sd.CLIP(target, model_options=options, tokenizer_data=words)
    random = torch.Generator().manual_seed(0)
    for name, weight in clip.cond_stage_model.named_parameters():
        if "norm" in name:
            weight.data = torch.ones_like(weight) if name.endswith("weight") else torch.zeros_like(weight)
        elif "embed" in name or "shared" in name:
            # Of a large vocabulary the tokens of a text are still told apart by few rows.
            rows = torch.randn(min(len(weight), 4099), *weight.shape[1:], generator=random)
            weight.data = rows[torch.arange(len(weight)) % len(rows)]
        else:
            weight.data = 0.1 * torch.randn(weight.shape, generator=random)
    return clip


def _model(kind: Any, places: dict[str, Any], theirs: nn.Module) -> Any:
    """A ModelPatcher of this kind with the weights of a diffusers denoiser."""
    import comfy.model_patcher

    kind.set_inference_dtype(torch.float32, None)
    model = kind.get_model({}, "", device="cpu")
    mine = model.diffusion_model.state_dict()
    left = set(mine)
    for name, weight in theirs.state_dict().items():
        if name not in places:
            raise AssertionError(f"no place for {name}")
        place = places[name]
        key, span, change = (place, None, None) if isinstance(place, str) else (*place, None)[:3]
        weight = change(weight) if change else weight
        left.discard(key)
        target = mine[key] if span is None else mine[key].narrow(span[0], span[1], span[2])
        target.copy_(weight.reshape(target.shape))
    assert not left, left
    return comfy.model_patcher.ModelPatcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))
