"""A ComfyUI model's layers under the names that diffusers gives them, so that one artifact fits both."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..lowrank import LayerIndex, Part
from .families import Family

# ComfyUI's name of a text encoder, by the component that it is in diffusers.
ENCODERS = {
    "text_encoder": ("clip_l", "clip_h", "umt5xxl"),
    "text_encoder_2": ("clip_g", "t5xxl"),
    "text_encoder_3": ("t5xxl",),
}


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
    else:
        places = {}
    # Two names for one layer: the other one is that of models that see images, none of which is guarded.
    return {n: place for n, place in places.items() if n.endswith(".weight") and not n.startswith("class_embedding")}


def _layer(modules: dict[str, nn.Module], place: Any) -> nn.Module | Part | None:
    key, span, changed = (place, None, False) if isinstance(place, str) else (place[0], place[1], len(place) > 2)
    module = modules.get(key.removesuffix(".weight"))
    if module is None or changed:  # stored the other way round there: no term for the one fits the other
        return None
    if span is None or not hasattr(module, "out_features"):
        return module
    dimension, start, size = span
    return Part(module, slice(start, start + size)) if dimension == 0 else None
