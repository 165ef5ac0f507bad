"""Write the trained parts as a StableDiffusion3Pipeline folder in fp16 safetensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from transformers import CLIPTokenizer

from ..emoji_sd.export import tidy
from . import flow, models

TOKENIZERS = {"tokenizer": None, "tokenizer_2": "!"}  # and what each pads with, if not with the end token


def export(vae: AutoencoderKL, work: Path, start: Path, out: Path) -> StableDiffusion3Pipeline:
    """Reads `work/flow.pt` (its moving average); without it, nothing can be drawn yet but the format is final.

    start: the folder of emoji-sd, whose words and whose reading the training began with
    """
    tokenizer = CLIPTokenizer.from_pretrained(start / "tokenizer")
    net, checkpoint = flow.make_net(start, tokenizer), work / "flow.pt"
    if checkpoint.exists():
        net.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["ema"])
    transformer = models.make_transformer()
    transformer.load_state_dict(models.widened(net["transformer"].state_dict()))
    for weight in transformer.parameters():
        weight.data = weight.data.bfloat16()  # as training had them in its products; a wheel packs these better
    pipe = StableDiffusion3Pipeline(
        vae=vae,
        text_encoder=net["clip_l"],
        tokenizer=tokenizer,
        text_encoder_2=net["clip_g"],
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
        transformer=transformer,
        scheduler=models.make_scheduler(),
    ).to(torch.float16)
    out.mkdir(parents=True, exist_ok=True)
    pipe.save_pretrained(out, safe_serialization=True)
    for name, pad in TOKENIZERS.items():
        _copy_tokenizer(start / "tokenizer", out / name, pad)
    tidy(out, TOKENIZERS)
    return load(out)


def _copy_tokenizer(source: Path, target: Path, pad: str | None) -> None:
    """As plain vocab.json and merges.txt: what a library writes differs from version to version."""
    shutil.rmtree(target)
    shutil.copytree(source, target)
    if pad is not None:
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            said = json.loads((target / name).read_text())
            (target / name).write_text(json.dumps({**said, "pad_token": pad}, indent=2) + "\n")


def load(folder: Path) -> StableDiffusion3Pipeline:
    """The exported pipeline, in fp32."""
    # diffusers writes that there is none, and wants to be told so all the same.
    return StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32
    )
