"""Train the UNet on cached latents, and the text encoder, which has been taught to read before, a little with it.

On a CPU, one process per core with one thread each, averaging gradients over gloo, holds up better than one process
with several threads: threads of one operator wait for each other thousands of times a step, processes wait once.
"""

from __future__ import annotations

import copy
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTokenizer

from . import models
from .captions import Captions
from .optimise import Optimiser
from .scenes import Scene
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


@dataclass
class Latents:
    """Cached training set: scaled latents [n, 4, 16, 16], and what is to be seen in each."""

    latents: torch.Tensor
    scenes: list[Scene]


def _average(params: list[torch.nn.Parameter], world: int) -> None:
    flat = torch.cat([p.grad.reshape(-1) for p in params])
    dist.all_reduce(flat)
    flat /= world
    at = 0
    for p in params:
        p.grad.copy_(flat[at : at + p.numel()].view_as(p))
        at += p.numel()


def worker(rank: int, world: int, data: Latents, recipe: DiffusionRecipe, work: Path) -> None:
    """One process of the training; rank 0 logs and saves `work/diffusion.pt`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if world > 1:
        torch.set_num_threads(1)
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29511")
        dist.init_process_group("gloo", rank=rank, world_size=world)
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
            torch.save(dict(net=net.state_dict(), ema=ema.state_dict(), **state), path.with_suffix(".tmp"))
            os.replace(path.with_suffix(".tmp"), path)

    start = time.time() - elapsed
    saved_at, losses, n = time.time(), [], recipe.batch // world
    while True:
        elapsed = time.time() - start
        done = elapsed / (60 * recipe.minutes) if recipe.minutes else step / recipe.steps
        now = torch.tensor([done, float(time.time() - saved_at > recipe.save_every)])
        if world > 1:
            dist.broadcast(now, 0)  # processes must agree when to save and to stop, and on the learning rate
        done = float(now[0])
        if now[1] or done >= 1:
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
        if world > 1:
            _average(params, world)
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
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def train_diffusion(data: Latents, recipe: DiffusionRecipe, work: Path, processes: int | None = None) -> None:
    """Starts from `work/text.pt`; resumes from `work/diffusion.pt` if it is there."""
    if processes is None:
        processes = 1 if torch.cuda.is_available() else min(4, os.cpu_count() or 1)
    if processes == 1:
        worker(0, 1, data, recipe, work)
    else:
        torch.multiprocessing.spawn(worker, (processes, data, recipe, work), nprocs=processes)
