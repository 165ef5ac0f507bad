"""A folder of Stable Diffusion 3's architecture, without a T5, as ComfyUI's MODEL and CLIP.

The transformer is taken by ComfyUI's own loader, which reads diffusers' names and tells its size by its shapes. Of text
encoders it knows the full sizes only: here the folder's configuration says theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...errors import SessionError
from .parts_of import clip_shape, config_of, weights_of


def model(folder: Path) -> Any:
    """A ModelPatcher. Raises SessionError for another transformer, or one that ComfyUI does not know."""
    import comfy.sd

    config = config_of(folder / "transformer")
    if config.get("_class_name") != "SD3Transformer2DModel" or (folder / "text_encoder_3").is_dir():
        raise SessionError(
            f"{folder} is not a Stable Diffusion 3 model of two text encoders: load it with ComfyUI's own loaders"
        )
    found = comfy.sd.load_diffusion_model_state_dict(weights_of(folder / "transformer"), {"dtype": torch.float32})
    if found is None:
        raise SessionError(f"{folder / 'transformer'} has a shape that ComfyUI does not know as Stable Diffusion 3")
    schedule = config_of(folder / "scheduler", "scheduler_config.json")
    found.model.model_sampling.set_parameters(shift=schedule["shift"], multiplier=1000)
    return found


def clip(folder: Path) -> Any:
    """Both text encoders. Raises SessionError where weights are missing."""
    import comfy.sd
    import comfy.supported_models_base
    import comfy.text_encoders.sd3_clip as sd3

    target = comfy.supported_models_base.ClipTarget(sd3.SD3Tokenizer, sd3.sd3_clip(clip_l=True, clip_g=True, t5=False))
    places = {"clip_l": folder / "text_encoder", "clip_g": folder / "text_encoder_2"}
    shapes = {f"{name}_model_config": clip_shape(config_of(place)) for name, place in places.items()}
    found = comfy.sd.CLIP(target, model_options={"dtype": torch.float32, **shapes})
    for name, place in places.items():
        missing, _ = getattr(found.cond_stage_model, name).load_sd(weights_of(place))
        if missing := [key for key in missing if key != "logit_scale"]:
            raise SessionError(f"{place} lacks {missing[0]}: ComfyUI cannot read it")
    return found
