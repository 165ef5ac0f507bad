"""Tiny models with random weights that are the same in ComfyUI and in diffusers: SDXL and FLUX.

Full-sized ones are told by their shapes; here the configuration is given, and every weight is copied by the map from
diffusers' names that ComfyUI has for LoRAs.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from tiny import WIDTH, _text, tiny_sdxl
from torch import nn

from conceptguard.hosts.comfyui_demo import Parts


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
    import comfy.sd
    import comfy.supported_models
    import comfy.supported_models_base
    import comfy.text_encoders.flux
    import comfy.utils

    kind = comfy.supported_models.Flux({
        "image_model": "flux", "in_channels": 4, "out_channels": 4, "vec_in_dim": WIDTH, "context_in_dim": 2 * WIDTH,
        "hidden_size": 32, "mlp_ratio": 4.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
        "axes_dim": [4, 4, 8], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
    })  # fmt: skip
    model = _model(kind, comfy.utils.flux_to_diffusers(kind.unet_config), pipe.transformer)
    target = comfy.supported_models_base.ClipTarget(
        comfy.text_encoders.flux.FluxTokenizer, comfy.text_encoders.flux.flux_clip(dtype_t5=torch.float32)
    )
    clip_shape = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    t5_shape = {"d_model": 2 * WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    options = {"dtype": torch.float32, "clip_l_model_config": clip_shape, "t5xxl_model_config": t5_shape}
    clip = comfy.sd.CLIP(target, model_options=options)
    random = torch.Generator().manual_seed(0)
    for name, weight in clip.cond_stage_model.named_parameters():
        size = 1.0 if "embed" in name or "shared" in name else 0.1
        weight.data = size * torch.randn(weight.shape, generator=random)
        if "norm" in name:
            weight.data = torch.ones_like(weight) if name.endswith("weight") else torch.zeros_like(weight)
    return Parts(model, clip, None)


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
