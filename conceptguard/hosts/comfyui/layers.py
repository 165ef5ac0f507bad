"""A ComfyUI model's layers under the names that diffusers gives them, so that one artifact fits both."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from ...runtime.lowrank import LayerIndex, Part, Swapped
from ..denoising.families import Family

# ComfyUI's name of a text encoder, by the component that it is in diffusers.
ENCODERS = {
    "text_encoder": ("clip_l", "clip_h", "umt5xxl"),
    "text_encoder_2": ("clip_g", "t5xxl"),
    "text_encoder_3": ("t5xxl",),
}


# Second names for layers, of models none of which is guarded: those that see images, and FLUX.2.
_OTHERS = re.compile(
    r"^class_embedding|^single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)\.|\.ff(_context)?\.linear_(in|out)\."
)


def layers_of(family: Family, model: Any, clip: Any) -> LayerIndex:
    """Linear and convolution layers of a ModelPatcher (or None) and a CLIP. A fused projection is several layers."""
    found: dict[str, nn.Module | Part] = {}
    if model is not None:
        modules = dict(model.model.diffusion_model.named_modules())
        for name, place in _places(model.model.model_config.unet_config).items():
            if (layer := _layer(modules, place)) is not None:
                found[f"{family.denoiser}.{name.removesuffix('.weight')}"] = layer
    projecting = {place.name for place in family.encoders if place.pooled and place.states}
    for component, module in encoders_of(family, clip).items():
        for name, layer in module.transformer.named_modules():
            # Of transformers' classes only the one with a projection keeps its text model in an attribute.
            if component not in projecting:
                name = name.removeprefix("text_model.")
                if name == "text_projection":
                    continue  # ComfyUI gives every CLIP one, used or not
            found[f"{component}.{name}"] = layer
    return LayerIndex.named(found)


def encoders_of(family: Family, clip: Any) -> dict[str, Any]:
    """A CLIP's encoders by the component that each is in diffusers."""
    found: dict[str, Any] = {}
    for place in family.encoders:
        module = next((m for n in ENCODERS[place.name] if (m := getattr(clip.cond_stage_model, n, None))), None)
        if module is not None and module not in found.values():
            found[place.name] = module
    return found


def _places(config: dict[str, Any]) -> dict[str, Any]:
    """Of every weight that has a name in diffusers, its place in ComfyUI's model: a key, or (key, slice, function)."""
    import comfy.utils

    if "num_res_blocks" in config:
        places = comfy.utils.unet_to_diffusers(config)
    elif config.get("image_model") == "flux":
        places = comfy.utils.flux_to_diffusers(config)
    elif "pos_embed_max_size" in config or config.get("adm_in_channels"):
        places = comfy.utils.mmdit_to_diffusers(config)
    elif config.get("image_model") == "wan2.1":
        places = _wan_places(config["num_layers"])
    else:
        places = {}
    return {n: place for n, place in places.items() if n.endswith(".weight") and not _OTHERS.search(n)}


_WAN_BLOCK = {
    **{f"attn{n}.to_{theirs}": f"{mine}_attn.{part}"
       for n, mine in ((1, "self"), (2, "cross"))
       for theirs, part in (("q", "q"), ("k", "k"), ("v", "v"), ("out.0", "o"))},
    "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2",
}  # fmt: skip
_WAN = {
    "patch_embedding": "patch_embedding", "proj_out": "head.head",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
}  # fmt: skip


def _wan_places(blocks: int) -> dict[str, str]:
    """ComfyUI has such a table for every kind but this one."""
    places = {**_WAN, **{f"blocks.{n}.{a}": f"blocks.{n}.{b}" for n in range(blocks) for a, b in _WAN_BLOCK.items()}}
    return {f"{name}.weight": f"{place}.weight" for name, place in places.items()}


def _layer(modules: dict[str, nn.Module], place: Any) -> nn.Module | Part | None:
    key, span, changed = (place, None, False) if isinstance(place, str) else (place[0], place[1], len(place) > 2)
    module = modules.get(key.removesuffix(".weight"))
    if module is None:
        return None
    if changed:  # stored the other way round there
        return Swapped(module) if hasattr(module, "out_features") else None
    if span is None or not hasattr(module, "out_features"):
        return module
    dimension, start, size = span
    return Part(module, slice(start, start + size)) if dimension == 0 else None
