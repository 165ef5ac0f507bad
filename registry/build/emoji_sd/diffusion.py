"""Train the UNet on cached latents, and the text encoder, which has been taught to read before, a little with it."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTokenizer

from . import models, processes
from .captions import Captions
from .latents import Latents
from .optimise import Optimiser
from .suite import load_suite
from .text import encode, strange_words, token_embedding

# What is learned last is seen more often: strokes, and the style that is told from another by its shading alone.
SEEN = {"outline": 2.0, "fluent": 1.7, "mono": 1.5}


@dataclass(frozen=True)
class DiffusionRecipe:
    """`minutes`, if given, ends the schedule by the clock instead of after `steps`."""

    steps: int = 13_200
    minutes: float | None = None
    batch: int = 64  # over all processes, which wait for each other once a step
    lr: float = 0.02  # of Muon, at the UNet's matrices
    adam_lr: float = 1e-3  # at what else the UNet has
    text_lr: float = 1e-4
    warmup: int = 100
    min_snr: float = 5.0
    ema: float = 0.998
    seed: int = 0
    save_every: float = 180.0  # seconds


def worker(rank: int, world: int, data: Latents, recipe: DiffusionRecipe, work: Path) -> None:
    """One process of the training; rank 0 logs and saves `work/diffusion.pt`."""
    with processes.together(rank, world, port=29511) as device:
        _train(rank, world, device, data, recipe, work)


def _train(rank: int, world: int, device: torch.device, data: Latents, recipe: DiffusionRecipe, work: Path) -> None:
    torch.manual_seed(recipe.seed)
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    captions = Captions(load_suite(), strange_words(tokenizer))
    text = models.make_text_encoder()
    text.load_state_dict(torch.load(work / "text.pt", map_location="cpu", weights_only=True)["text"])
    # Words are learned by then: their 6 million numbers would cost the optimiser more than all else of the encoder.
    token_embedding(text).requires_grad_(False)
    unet = models.make_unet()
    if device.type == "cpu":
        # The fused attention's backward pass takes a third of a step at these small sizes; plain matmuls take 5 %.
        unet.set_attn_processor(AttnProcessor())
        text.set_attn_implementation("eager")
    net = torch.nn.ModuleDict({"unet": unet, "text": text}).to(device)
    words = [p for p in text.parameters() if p.requires_grad]
    params = [*unet.parameters(), *words]
    ema = copy.deepcopy(net)
    averaged = [p for name in ("unet", "text") for p in ema[name].parameters() if p.requires_grad]
    ema.requires_grad_(False)
    optim = Optimiser(unet.parameters(), recipe.lr, recipe.adam_lr, rank, world)
    reader = torch.optim.AdamW(words, recipe.text_lr, betas=(0.9, 0.99), weight_decay=0.01)
    abar = models.alphas_cumprod().to(device)
    weight = torch.clamp(recipe.min_snr / (abar / (1 - abar)), max=1.0)

    shares = np.array([SEEN.get(scene.style, 1.0) for scene in data.scenes])
    shares /= shares.sum()

    step, elapsed = 0, 0.0
    path = work / "diffusion.pt"
    if path.exists():
        saved = torch.load(path, map_location=device, weights_only=True)
        net.load_state_dict(saved["net"]), ema.load_state_dict(saved["ema"])
        optim.load_state_dict(saved["optim"]), reader.load_state_dict(saved["reader"])
        step, elapsed = saved["step"], saved["elapsed"]

    def save() -> None:
        """What all processes call together, since each has a share of the optimiser."""
        state = dict(optim=optim.state_dict(), reader=reader.state_dict(), step=step, elapsed=elapsed)
        if rank == 0:
            processes.save(dict(net=net.state_dict(), ema=ema.state_dict(), **state), path)

    start = time.time() - elapsed
    saved_at, losses, n = time.time(), [], recipe.batch // world
    while True:
        elapsed = time.time() - start
        done = elapsed / (60 * recipe.minutes) if recipe.minutes else step / recipe.steps
        done, now = processes.agreed(done, time.time() - saved_at > recipe.save_every, world)
        if now or done >= 1:
            save()
            saved_at = time.time()
        if done >= 1:
            break
        rate = min(1.0, (step + 1) / recipe.warmup) * (0.5 + 0.5 * math.cos(math.pi * done))
        for group in reader.param_groups:
            group["lr"] = rate * recipe.text_lr
        # Every step seeds itself, so that a resumed run needs no saved generator.
        seed = (recipe.seed * 10_000_019 + step) * world + rank
        rng = np.random.default_rng(seed)
        gen = torch.Generator().manual_seed(seed)
        pick = rng.choice(len(data.latents), size=n, p=shares)
        z = data.latents[torch.from_numpy(pick)].to(device)
        texts = [captions.write(data.scenes[i], rng).text for i in pick]
        ids = encode(tokenizer, texts).to(device)
        # Stratified timesteps: the loss varies more with t than with anything else.
        t = ((torch.arange(n) + torch.rand(n, generator=gen)) / n * 1000).long().clamp(max=999).to(device)
        noise = torch.randn(z.shape, generator=gen).to(device)
        a = abar[t].view(-1, 1, 1, 1)
        with torch.autocast(device.type, torch.bfloat16):
            context = text(ids).last_hidden_state
            pred = unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, context).sample
        loss = (F.mse_loss(pred.float(), noise, reduction="none").mean((1, 2, 3)) * weight[t]).mean()
        for p in params:
            p.grad = None
        loss.backward()
        processes.average_gradients(params, world)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optim.step(rate)
        reader.step()
        step += 1
        if rank == 0:
            decay = min(recipe.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(averaged, params, 1 - decay)
            losses.append(loss.item())
            if step % 50 == 0:
                speed = step * recipe.batch / (time.time() - start)
                told = f"loss {np.mean(losses):.4f} lr {rate * recipe.lr:.2e} {speed:.1f} images/s"
                print(f"step {step} {done:.1%} {told}", flush=True)
                losses = []
