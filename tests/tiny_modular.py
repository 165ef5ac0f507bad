"""Tiny modular pipelines with random weights, of the parts of the tiny classic ones."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ClassifierFreeGuidance
from diffusers.modular_pipelines import FluxAutoBlocks, StableDiffusionXLAutoBlocks
from tiny import tiny_sdxl
from tiny_transformers import tiny_flux

SIZE = {"height": 64, "width": 64}
FLUX = {"height": 32, "width": 32, "max_sequence_length": 32}


def modular(blocks: Any, parts: dict[str, Any]) -> Any:
    """A pipeline of blocks with those of the parts that it has a place for."""
    pipe = blocks.init_pipeline()
    pipe.update_components(**{n: p for n, p in parts.items() if p is not None and n in pipe.components})
    return quiet(pipe)


def modular_sdxl(tokenizer: Any, guider: Any = None, blocks: Any = None) -> Any:
    """SDXL: a guider that calls the UNet once for each branch; latents [4, 8, 8]."""
    pipe = modular(blocks or StableDiffusionXLAutoBlocks(), tiny_sdxl(tokenizer).components)
    pipe.update_components(guider=guider or ClassifierFreeGuidance(guidance_scale=7.5))
    return pipe


def modular_flux(tokenizer: Any, blocks: Any = None) -> Any:
    """FLUX: distilled guidance, one branch; latents [4, 16, 16]."""
    return modular(blocks or FluxAutoBlocks(), tiny_flux(tokenizer).components)


def quiet(pipe: Any) -> Any:
    """Without progress bars, which belong to blocks at any depth."""

    def each(block: Any) -> None:
        if hasattr(block, "set_progress_bar_config"):
            block.set_progress_bar_config(disable=True)
        for inner in block.sub_blocks.values():
            each(inner)

    each(pipe._blocks)
    return pipe


def draw(pipe: Any, prompts: Any, **options: Any) -> Any:
    """Latents after two steps, row i from seed i; the pipeline's own answer where ``output`` says which."""
    count = (1 if isinstance(prompts, str) else len(prompts)) * options.get("num_images_per_prompt", 1)
    size = FLUX if hasattr(pipe, "transformer") else SIZE
    given = {"num_inference_steps": 2, "output": "images", "output_type": "latent", **size, **options}
    return pipe(prompt=prompts, generator=[torch.Generator().manual_seed(i) for i in range(count)], **given)
