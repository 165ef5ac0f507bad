"""Tiny models that see pictures, with random weights, and their processors."""

from __future__ import annotations

import copy
from typing import Any

import torch
from PIL import Image
from tiny_language import tokenizer
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)

SIDE, PATCH, WIDTH = 16, 8, 32


def tiny_llava(family: str = "llama", seed: int = 0) -> tuple[Any, Any]:
    """(model, processor). family: "llama" with CLIP's picture tower, as LLaVA 1.5, or "qwen2" with SigLIP's."""
    tok = copy.deepcopy(tokenizer())
    tok.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image = tok.convert_tokens_to_ids("<image>")
    common = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {f"{name}_token_id": getattr(tok, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    clip = family == "llama"
    text = (LlamaConfig if clip else Qwen2Config)(
        **common, **ends, vocab_size=len(tok), num_key_value_heads=2, max_position_embeddings=256
    )
    vision = (CLIPVisionConfig if clip else SiglipVisionConfig)(**common, image_size=SIDE, patch_size=PATCH)
    which = "default" if clip else "full"
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image, vision_feature_layer=-1,
        vision_feature_select_strategy=which,
    ))  # fmt: skip
    for name, value in ends.items():
        setattr(model.generation_config, name, value)
    side = {"height": SIDE, "width": SIDE}
    pictures = CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False)
    processor = LlavaProcessor(
        pictures, tok, patch_size=PATCH, vision_feature_select_strategy=which, image_token="<image>",
        num_additional_image_tokens=1 if clip else 0,
    )  # fmt: skip
    return model.eval(), processor


def picture(colour: str = "#c0202b", size: tuple[int, int] = (20, 24)) -> Image.Image:
    """Of one colour, with a darker corner."""
    made = Image.new("RGB", size, colour)
    made.paste("black", (0, 0, size[0] // 3, size[1] // 3))
    return made
