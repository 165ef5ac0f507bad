"""What is read of one part of a diffusers folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

CLIP = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
    "max_position_embeddings", "projection_dim", "eos_token_id",
)  # fmt: skip


def config_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A part's own configuration."""
    return dict(json.loads((folder / name).read_text(encoding="utf-8")))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All of its weights in fp32."""
    return {name: t.float() for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}


def clip_shape(config: dict[str, Any]) -> dict[str, Any]:
    """What ComfyUI asks of a CLIP text encoder's configuration."""
    return {key: config[key] for key in CLIP}
