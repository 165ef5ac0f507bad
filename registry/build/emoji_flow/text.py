"""What both text encoders say of a caption, as StableDiffusion3Pipeline puts it together."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ..emoji_sd.models import EOS, make_text_encoder

G_PAD = 0  # "!", with which SD 3's second tokenizer pads


def start_from(folder: Path) -> CLIPTextModel:
    """emoji-sd's text encoder: of the finished model, or of its working folder as soon as it has learned to read.

    Raises FileNotFoundError where there is neither.
    """
    if (folder / "text_encoder").is_dir():
        return CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    if not (folder / "text.pt").is_file():
        raise FileNotFoundError(f"{folder} has neither text_encoder/ nor text.pt: build emoji-sd first, or name it")
    text = make_text_encoder()
    text.load_state_dict(torch.load(folder / "text.pt", map_location="cpu", weights_only=True)["text"])
    return text


def embed(
    clip_l: CLIPTextModelWithProjection, clip_g: CLIPTextModelWithProjection, ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Token ids [n, k], padded with the end token -> states [n, k, L + G], pooled [n, L + G]."""
    ended = (ids == EOS).cumsum(1) > 1
    found = [model(each, output_hidden_states=True) for model, each in (
        (clip_l, ids), (clip_g, ids.masked_fill(ended, G_PAD)))]  # fmt: skip
    states = torch.cat([one.hidden_states[-2] for one in found], -1)
    return states, torch.cat([one.text_embeds for one in found], -1)


def with_zero(states: Tensor) -> Tensor:
    """One token of zeros behind the states, which ``CountedAttention`` takes for many."""
    return F.pad(states, (0, 0, 0, 1))
