"""How much sooner a part of emoji-sd is as good as it was: python -m conceptguard_registry.build.emoji_sd.pace.

Each part is trained for a short budget as it was (`before`), and then as it is now, on fewer and fewer pictures, each a
whole schedule, for as long as it comes out as good on what it was not trained on. Seconds are the processor's, of one
thread, so that other work on the machine does not change them. Drawing pictures for a part takes what it took, and does
not count.

The text encoder, which learned beside the denoiser, is now taught to read before it. Its share of that time counts here
as the denoiser's; the one that ships stands for what it brings, since a short budget's share would teach it nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from conceptguard.cli.output import result

from . import before, data, diffusion, judge, latents, models, packs, vae
from .captions import Captions
from .suite import Suite, load_suite
from .text import TextRecipe, encode, strange_words, train_text

SHARES = (0.7, 0.6, 0.5, 0.4, 0.3)  # of the pictures that it had
HELD = 512  # views that the denoiser is not trained on
SHIPPED = Path(__file__).resolve().parents[2] / "models" / "emoji-sd"


@dataclass(frozen=True)
class Part:
    """before, now: steps and an empty folder -> quality, more is better, and seconds; batches: pictures of a step."""

    name: str
    quality: str
    before: Callable[[int, Path], tuple[float, float]]
    now: Callable[[int, Path], tuple[float, float]]
    steps: int
    batches: tuple[int, int]


def prepare(work: Path, model: Path, suite: Suite, icons: dict[str, dict], views: int) -> None:
    """What the denoiser is trained on, from the finished ``model``, where it is not in ``work``."""
    work.mkdir(parents=True, exist_ok=True)
    shutil.copytree(model / "tokenizer", work / "tokenizer", dirs_exist_ok=True)
    if not (work / "text.pt").exists():
        torch.save(
            {"text": CLIPTextModel.from_pretrained(model / "text_encoder").float().state_dict()}, work / "text.pt"
        )
    if not (work / "latents.safetensors").exists():
        latents.write(work / "latents.safetensors", model / "vae", suite, icons, views)


def autoencoder(suite: Suite, icons: dict[str, dict]) -> Part:
    """Its quality: PSNR of views that it was not trained on."""
    views, unseen = (data.draw_views(suite, icons, n, seed=seed).images for n, seed in ((2, 1), (1, 2)))

    def train(then: bool, steps: int, folder: Path) -> tuple[float, float]:
        recipe = vae.VaeRecipe(steps=steps, warmup=20, compile=False, ema=0.0 if then else vae.VaeRecipe.ema)
        with before.autoencoder() if then else nullcontext():
            model, seconds = clocked(lambda: vae.train_vae(views, recipe, folder))
        return vae.mean_psnr(model, unseen[::8]), seconds

    return Part("autoencoder", "PSNR, dB", partial(train, True), partial(train, False), 200, (vae.VaeRecipe.batch,) * 2)


def denoiser(suite: Suite, work: Path, views: int) -> Part:
    """Its quality: minus the loss on views that it was not trained on."""
    every = latents.read(work / "latents.safetensors", suite, views)
    order = np.random.default_rng(5).permutation(len(every.latents))
    held, known = (
        latents.Latents(every.latents[torch.from_numpy(some)], [every.scenes[i] for i in some])
        for some in (order[:HELD], order[HELD:])
    )
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    now, tells = diffusion.DiffusionRecipe(), TextRecipe.steps / diffusion.DiffusionRecipe.steps

    def train(then: bool, steps: int, folder: Path) -> tuple[float, float]:
        (folder / "tokenizer").symlink_to((work / "tokenizer").resolve())
        recipe = diffusion.DiffusionRecipe(steps=steps, warmup=20)
        if then:
            recipe = replace(recipe, batch=before.DENOISER_BATCH, text_lr=1e-3)
            with before.denoiser(folder):
                _, seconds = clocked(lambda: diffusion.worker(0, 1, known, recipe, folder))
        else:
            short = TextRecipe(steps=round(steps * tells))
            (folder / "reading").mkdir()
            _, reading = clocked(lambda: train_text(suite, tokenizer, short, folder / "reading"))
            (folder / "text.pt").symlink_to((work / "text.pt").resolve())
            _, seconds = clocked(lambda: diffusion.worker(0, 1, known, recipe, folder))
            seconds += reading
        return -loss(held, folder), seconds

    return Part(
        "denoiser", "minus loss", partial(train, True), partial(train, False), 300, (before.DENOISER_BATCH, now.batch)
    )


def reader(suite: Suite, icons: dict[str, dict]) -> Part:
    """The judge; its quality: objects named in softened renderings that it was not trained on."""

    def train(then: bool, steps: int, folder: Path) -> tuple[float, float]:
        recipe = judge.JudgeRecipe(steps=steps, views=4, extra_views=2, none_names=100)
        if then:
            recipe = replace(recipe, batch=before.JUDGE_BATCH)
        as_then = before.reader(steps) if then else nullcontext()
        with as_then, uncounted(judge, "draw", "calibrate", "evaluate") as apart:
            found, seconds = clocked(lambda: judge.train_judge(suite, icons, recipe, folder))
        return found["object_soft"], seconds - sum(apart)

    return Part(
        "judge",
        "objects named",
        partial(train, True),
        partial(train, False),
        300,
        (before.JUDGE_BATCH, judge.JudgeRecipe.batch),
    )


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


def clocked(do: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the processor's seconds that it took."""
    begun = time.process_time()
    return do(), time.process_time() - begun


@contextmanager
def uncounted(module: ModuleType, *names: str) -> Iterator[list[float]]:
    """The processor's seconds that a module's functions of these names take meanwhile."""
    apart: list[float] = []

    def beside(do: Callable[..., Any], *given: Any) -> Any:
        done, seconds = clocked(lambda: do(*given))
        apart.append(seconds)
        return done

    with patch.multiple(module, **{name: partial(beside, getattr(module, name)) for name in names}):
        yield apart


def timed(part: Part, then: bool, steps: int) -> dict[str, float]:
    """Seconds and quality of one training, from nothing."""
    train, batch = (part.before, part.batches[0]) if then else (part.now, part.batches[1])
    with tempfile.TemporaryDirectory() as folder:
        quality, seconds = train(steps, Path(folder))
    return {"steps": steps, "pictures": steps * batch, "seconds": seconds, "quality": quality}


def compare(part: Part, budget: float = 1.0) -> dict[str, Any]:
    """Before and now; `ratio` is of the seconds of the fewest pictures that came out as good, None where none did."""
    was = timed(part, True, max(10, round(part.steps * budget)))
    tried: list[dict[str, float]] = []
    for share in SHARES:
        tried.append(timed(part, False, round(share * was["pictures"] / part.batches[1])))
        if tried[-1]["quality"] < was["quality"]:
            break
    enough = [one for one in tried if one["quality"] >= was["quality"]]
    ratio = enough[-1]["seconds"] / was["seconds"] if enough else None
    return {"part": part.name, "quality": part.quality, "before": was, "tried": tried, "ratio": ratio}


PARTS = ("autoencoder", "denoiser", "judge")


def measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One part, before and now, with what the command's arguments say."""
    torch.set_num_threads(1)
    suite, icons = load_suite(), packs.load_packs(args.cache)
    if name == "denoiser":
        prepare(args.work, args.model, suite, icons, args.views)
        return compare(denoiser(suite, args.work, args.views), args.budget)
    return compare((autoencoder if name == "autoencoder" else reader)(suite, icons), args.budget)


def main() -> None:
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.emoji_sd.pace", description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; may be given again")
    parser.add_argument("--cache", type=Path, default=Path("out/emoji-packs"), help="folder for the downloaded packs")
    parser.add_argument(
        "--work", type=Path, default=Path("out/pace"), help="what the denoiser is trained on is kept here"
    )
    parser.add_argument("--model", type=Path, default=SHIPPED, help="finished model that this is made from")
    parser.add_argument("--views", type=int, default=12, help="of each object in each style, for the denoiser")
    parser.add_argument("--budget", type=float, default=1.0, help="steps as a multiple of what is short")
    parser.add_argument("--json", type=Path, help="write all that was measured here")
    args = parser.parse_args()
    rows, begun = [], time.perf_counter()
    for name in tqdm(args.part or PARTS, desc="parts"):
        # In a process of its own, since a process that has trained as today keeps its memory.
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            rows.append(alone.submit(measured, name, args).result())
        was, ratio = rows[-1]["before"], rows[-1]["ratio"]
        now = "not as good on 0.7 of its pictures" if ratio is None else f"now in {ratio:.2f} of that"
        print(
            f"{name}: {rows[-1]['quality']} {was['quality']:.4g}, before in {was['seconds']:.0f} s, {now}", flush=True
        )
        if args.json:
            told = result("pace", rows, time.perf_counter() - begun)
            args.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
