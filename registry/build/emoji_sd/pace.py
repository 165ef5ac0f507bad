"""How much sooner a part of emoji-sd is as good as AdamW made it: python -m conceptguard_registry.build.emoji_sd.pace.

Each part is trained for a short budget as it was before, with AdamW for all weights, and then as it is trained now, in
fewer and fewer steps, each a whole schedule, for as long as it comes out as good on what it was not trained on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import CLIPTokenizer

from conceptguard.cli.output import result

from . import data, diffusion, judge, latents, models, packs, vae
from .captions import Captions
from .suite import Suite, load_suite
from .text import encode, strange_words

SHARES = (0.7, 0.6, 0.5, 0.4, 0.3)  # of the steps that AdamW had


class AdamW:
    """What stands in for `Optimiser`: one AdamW for all weights, with the learning rate that it had before."""

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float = 0, adam_lr: float = 1e-3, *_: Any) -> None:
        self.optim, self.peak = torch.optim.AdamW(params, adam_lr, betas=(0.9, 0.99), weight_decay=0.01), adam_lr

    def step(self, rate: float) -> None:
        for group in self.optim.param_groups:
            group["lr"] = rate * self.peak
        self.optim.step()

    def zero_grad(self) -> None:
        self.optim.zero_grad()

    def state_dict(self) -> dict:
        return self.optim.state_dict()


@dataclass(frozen=True)
class Part:
    """train: steps and an empty folder -> quality, more is better; batch: pictures of a step."""

    name: str
    quality: str
    module: Any
    train: Callable[[int, Path], float]
    steps: int
    batch: int


def parts(suite: Suite, icons: dict[str, dict], work: Path, budget: float) -> list[Part]:
    """The three that take the time, with a budget as a multiple of the shortest that says anything."""
    views, unseen = (data.draw_views(suite, icons, n, seed=seed).images for n, seed in ((2, 1), (1, 2)))
    every = latents.read(work / "latents.safetensors", suite, 24)
    parts_of = (slice(-512), slice(-512, None))
    known, held = (latents.Latents(every.latents[some], every.scenes[some]) for some in parts_of)

    def autoencoder(steps: int, folder: Path) -> float:
        model = vae.train_vae(views, vae.VaeRecipe(steps=steps, warmup=20, compile=False), folder)
        return vae.mean_psnr(model, unseen[::8])

    def denoiser(steps: int, folder: Path) -> float:
        for name in ("tokenizer", "text.pt"):
            (folder / name).symlink_to((work / name).resolve())
        diffusion.worker(0, 1, known, diffusion.DiffusionRecipe(steps=steps, warmup=20), folder)
        return -loss(held, folder)

    def reader(steps: int, folder: Path) -> float:
        recipe = judge.JudgeRecipe(steps=steps, views=4, extra_views=2, none_names=100)
        return judge.train_judge(suite, icons, recipe, folder)["object_soft"]

    scale = lambda steps: max(10, round(steps * budget))  # noqa: E731
    return [
        Part("autoencoder", "PSNR, dB", vae, autoencoder, scale(200), vae.VaeRecipe.batch),
        Part("denoiser", "minus loss", diffusion, denoiser, scale(100), diffusion.DiffusionRecipe.batch),
        Part("judge", "objects named", judge, reader, scale(250), judge.JudgeRecipe.batch),
    ]


@torch.no_grad()
def loss(held: latents.Latents, folder: Path) -> float:
    """Of the averaged weights in `folder`, for noise and times that are the same for all."""
    saved = torch.load(folder / "diffusion.pt", map_location="cpu", weights_only=True)["ema"]
    unet, text = models.make_unet(), models.make_text_encoder()
    for name, part in (("unet.", unet), ("text.", text)):
        part.load_state_dict({k[len(name) :]: v for k, v in saved.items() if k.startswith(name)})
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    captions, rng = Captions(load_suite(), strange_words(tokenizer)), np.random.default_rng(0)
    ids = encode(tokenizer, [captions.write(scene, rng).text for scene in held.scenes])
    gen = torch.Generator().manual_seed(0)
    noise, t = torch.randn(held.latents.shape, generator=gen), torch.arange(len(ids)) * 1000 // len(ids)
    a = models.alphas_cumprod()[t].view(-1, 1, 1, 1)
    noisy = a.sqrt() * held.latents + (1 - a).sqrt() * noise
    found = [
        F.mse_loss(unet(noisy[i], t[i], text(ids[i]).last_hidden_state).sample, noise[i])
        for i in torch.arange(len(ids)).split(64)
    ]
    return float(torch.stack(found).mean())


def timed(part: Part, steps: int) -> dict[str, float]:
    """Seconds and quality of one training, from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        quality = part.train(steps, Path(folder))
        return {
            "steps": steps, "pictures": steps * part.batch, "seconds": time.perf_counter() - begun, "quality": quality,
        }  # fmt: skip


def compare(part: Part) -> dict[str, Any]:
    """Before and now; `ratio` is of the seconds of the fewest steps that came out as good, None where none did."""
    with patch.object(part.module, "Optimiser", AdamW):
        before = timed(part, part.steps)
    tried: list[dict[str, float]] = []
    for share in SHARES:
        tried.append(timed(part, round(share * part.steps)))
        if tried[-1]["quality"] < before["quality"]:
            break
    enough = [one for one in tried if one["quality"] >= before["quality"]]
    ratio = enough[-1]["seconds"] / before["seconds"] if enough else None
    return {"part": part.name, "quality": part.quality, "before": before, "tried": tried, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.emoji_sd.pace", description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("out/emoji-packs"), help="folder for the downloaded packs")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("out/emoji-sd"),
        help="folder with text.pt, tokenizer/ and latents.safetensors",
    )
    parser.add_argument("--budget", type=float, default=1.0, help="steps as a multiple of what is short")
    parser.add_argument("--json", type=Path, help="write all that was measured here")
    args = parser.parse_args()
    rows, begun = [], time.perf_counter()
    for part in tqdm(parts(load_suite(), packs.load_packs(args.cache), args.work, args.budget), desc="parts"):
        rows.append(compare(part))
        before, ratio = rows[-1]["before"], rows[-1]["ratio"]
        now = "not as good in 0.7 of its steps" if ratio is None else f"now in {ratio:.2f} of that"
        print(
            f"{part.name}: {part.quality} {before['quality']:.4g}, AdamW {before['seconds']:.0f} s, {now}", flush=True
        )
        if args.json:
            told = result("pace", rows, time.perf_counter() - begun)
            args.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
