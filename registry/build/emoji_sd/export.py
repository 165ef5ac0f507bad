"""Write the trained parts as a StableDiffusionPipeline folder in fp16 safetensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from . import models


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="leading",
    )


def _fix_text_encoder(folder: Path) -> None:
    """transformers 5 saves without the `text_model.` prefix that every Stable Diffusion loader looks for."""
    file = folder / "model.safetensors"
    state = load_file(file)
    fixed = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in state.items()}
    fixed = {k: v for k, v in fixed.items() if not k.endswith("position_ids")}
    save_file(fixed, file, metadata={"format": "pt"})


def export(vae: AutoencoderKL, work: Path, out: Path, seed: int = 0) -> StableDiffusionPipeline:
    """Reads `work/diffusion.pt` (its moving average); without it, the weights are random but the format is final."""
    torch.manual_seed(seed)
    unet, text = models.make_unet(), models.make_text_encoder()
    checkpoint = work / "diffusion.pt"
    if checkpoint.exists():
        ema = torch.load(checkpoint, map_location="cpu", weights_only=True)["ema"]
        for name, part in (("unet.", unet), ("text.", text)):
            part.load_state_dict({k[len(name) :]: v for k, v in ema.items() if k.startswith(name)})
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16)
    out.mkdir(parents=True, exist_ok=True)
    pipe.save_pretrained(out, safe_serialization=True)
    _fix_text_encoder(out / "text_encoder")
    # The tokenizer as plain vocab.json and merges.txt: what a library writes differs from version to version.
    shutil.rmtree(out / "tokenizer")
    shutil.copytree(work / "tokenizer", out / "tokenizer")
    tidy(out, ["tokenizer"])
    return load(out)


def tidy(folder: Path, tokenizers: Iterable[str]) -> None:
    """A saved pipeline's configurations as every version of the libraries reads them, and with nothing of the machine
    that built it."""
    index = json.loads((folder / "model_index.json").read_text())
    index.pop("_name_or_path", None)
    index |= {name: ["transformers", "CLIPTokenizer"] for name in tokenizers}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    for config in folder.glob("*/config.json"):
        data = json.loads(config.read_text())
        data.pop("_name_or_path", None)
        if "dtype" in data or "torch_dtype" in data:
            # transformers 5 loads in the dtype named here where diffusers loads in fp32: the two must agree.
            data.update(dtype="float32", torch_dtype="float32")
        config.write_text(json.dumps(data, indent=2) + "\n")


def load(folder: Path) -> StableDiffusionPipeline:
    """The exported pipeline, in fp32."""
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
