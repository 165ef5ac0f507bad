"""What a denoiser is trained on: every view's latents, encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from . import data
from .models import SIZE
from .scenes import TWO, Scene
from .suite import Suite
from .vae import encode, without_outer_blocks


@dataclass
class Latents:
    """Scaled latents [n, channels, 16, 16], and what is to be seen in each."""

    latents: torch.Tensor
    scenes: list[Scene]


def write(file: Path, vae: Path, suite: Suite, icons: dict[str, dict], views: int, two: float = TWO) -> None:
    """Latents of ``views`` views of each object in each style, as the autoencoder in the folder ``vae`` has them.

    two: share of views with a second object
    """
    # The encoder's outermost blocks are identities that cost half of its time.
    model = without_outer_blocks(AutoencoderKL.from_pretrained(vae))
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    shift, scale = model.config.shift_factor or 0.0, model.config.scaling_factor
    parts = data.in_parts(suite, icons, views, seed=1, size=SIZE, two=two)
    found = [(encode(model, part.images) - shift) * scale for part in parts]
    save_file({"latents": torch.cat(found).half().contiguous()}, file)


def read(file: Path, suite: Suite, views: int, two: float = TWO) -> Latents:
    """What was written with the same suite, number of views and share of two."""
    latents = load_file(file)["latents"].float()
    scenes = [scene for scene, _ in data.scenes(suite, views, seed=1, two=two)]
    if len(scenes) != len(latents):
        raise SystemExit(f"{file} is of another suite or another --views: delete it")
    return Latents(latents, scenes)
