"""A diffusers folder as ComfyUI's MODEL, CLIP and VAE: how the embedded model gets into a graph.

ComfyUI finds out what a checkpoint is by its shapes, which knows full-sized models only. Here the folder's own
configuration says it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...errors import SessionError
from ...registry import default_registry
from . import load_sd3
from .parts_of import clip_shape, config_of, weights_of


class Parts(NamedTuple):
    """What ComfyUI's loaders give: a ModelPatcher, a CLIP and a VAE."""

    model: Any
    clip: Any
    vae: Any


def load_parts(name: str) -> Parts:
    """A model of the registry, or a folder in diffusers format, of the architecture of Stable Diffusion 1.x, or of
    Stable Diffusion 3 without a T5.

    Raises RegistryError when there is none of this name, SessionError for another architecture.
    """
    folder = Path(name) if Path(name).is_dir() else default_registry().model(name)
    if (folder / "transformer").is_dir():
        return Parts(load_sd3.model(folder), load_sd3.clip(folder), _vae(folder))
    unet = config_of(folder / "unet") if (folder / "unet").is_dir() else {}
    if unet.get("addition_embed_type") or not str(unet.get("_class_name")).startswith("UNet2DCondition"):
        raise SessionError(f"{folder} is not a Stable Diffusion 1.x or 3 model: load it with ComfyUI's own loaders")
    return Parts(_model(folder, unet), _clip(folder), _vae(folder))


def _model(folder: Path, config: dict[str, Any]) -> Any:
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    widths, count = config["block_out_channels"], config["layers_per_block"]
    deep = [int("CrossAttn" in kind) for kind in config["down_block_types"]]
    shape = {
        "image_size": 32, "in_channels": config["in_channels"], "out_channels": config["out_channels"],
        "model_channels": widths[0], "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [count] * len(widths), "transformer_depth": [d for d in deep for _ in range(count)],
        "transformer_depth_output": [d for d in deep for _ in range(count + 1)], "transformer_depth_middle": 1,
        "context_dim": config["cross_attention_dim"], "use_spatial_transformer": True, "legacy": False,
        "use_linear_in_transformer": config["use_linear_projection"], "adm_in_channels": None,
        "use_temporal_attention": False,
    }  # fmt: skip
    kind = comfy.supported_models.SD15(shape)
    kind.unet_config["num_heads"] = config["attention_head_dim"]  # diffusers' name for what is a count here
    kind.set_inference_dtype(torch.float32, None)
    model = kind.get_model({}, "", device=management.unet_offload_device())
    names = comfy.utils.unet_to_diffusers(kind.unet_config)
    theirs = weights_of(folder / "unet")
    model.load_model_weights({names[name]: weight for name, weight in theirs.items()}, "")
    device = management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=management.unet_offload_device())


def _clip(folder: Path) -> Any:
    import comfy.sd
    import comfy.sd1_clip
    import comfy.supported_models_base

    config, sd = config_of(folder / "text_encoder"), weights_of(folder / "text_encoder")
    # transformers from 5 on saves them without the prefix
    sd = {name if name.startswith("text_model.") else f"text_model.{name}": t for name, t in sd.items()}
    sd["text_projection.weight"] = torch.eye(config["hidden_size"])  # it has none, and ComfyUI's is not initialised
    shape = clip_shape(config)
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32, "clip_l_model_config": shape})
    missing, _ = clip.load_sd(sd)
    if missing := [name for name in missing if name != "logit_scale"]:
        raise SessionError(f"{folder / 'text_encoder'} lacks {missing[0]}: ComfyUI cannot read it")
    return clip


def _vae(folder: Path) -> Any:
    import comfy.sd

    config = config_of(folder / "vae")
    widths = config["block_out_channels"]
    shape = {
        "double_z": True, "z_channels": config["latent_channels"], "resolution": 256, "in_channels": 3, "out_ch": 3,
        "ch": widths[0], "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config["layers_per_block"], "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    channels, sd = config["latent_channels"], weights_of(folder / "vae")
    for name, n in (("quant_conv", 2 * channels), ("post_quant_conv", channels)):
        # ComfyUI's class has convolutions around the latents; where the model has none, these leave all as it is.
        sd.setdefault(f"{name}.weight", torch.eye(n)[:, :, None, None])
        sd.setdefault(f"{name}.bias", torch.zeros(n))
    vae = comfy.sd.VAE(sd=sd, config={"params": {"ddconfig": shape, "embed_dim": channels}}, dtype=torch.float32)
    vae.latent_channels = channels
    return vae
