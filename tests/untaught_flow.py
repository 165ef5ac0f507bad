"""emoji-flow before anything was taught: its shapes and files, all weights random but those of emoji-sd."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from conceptguard_registry.build.emoji_flow import export, flow, vae
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTokenizer

from conceptguard.registry import default_registry


def start() -> Path:
    """The folder that it begins with."""
    return default_registry().model("emoji-sd")


@cache
def tokenizer() -> Any:
    return CLIPTokenizer.from_pretrained(start() / "tokenizer")


@cache
def net() -> nn.ModuleDict:
    """What is trained, with a transformer that predicts something: untaught, it predicts zero."""
    torch.manual_seed(0)
    found = flow.make_net(start(), tokenizer()).eval().requires_grad_(False)
    for weight in found["transformer"].parameters():
        if not weight.any():
            weight.normal_(std=0.05)
    return found


def exported(work: Path) -> Path:
    """Its folder in diffusers' format, under ``work``."""
    torch.save({"ema": net().state_dict()}, work / "flow.pt")
    theirs = AutoencoderKL.from_pretrained(start() / "vae", torch_dtype=torch.float32)
    export.export(vae.spread(theirs), work, start(), work / "emoji-flow")
    return work / "emoji-flow"
