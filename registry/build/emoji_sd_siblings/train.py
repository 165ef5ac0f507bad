"""More training of emoji-sd's denoiser, as a change of low rank beside every matrix and convolution.

W + up · down in place of W (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn.utils import parametrize

from conceptguard.runtime.lowrank import Factors

from ..emoji_sd import models
from .pictures import Taught

# (noisy latents, timesteps, captions, which pictures they are) -> the noise as it is predicted
Said = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """until: by ``time.monotonic``, when the training ends, unless ``steps`` are made before

    most: how many times more an error may count where noise hides the picture, as it is one in the picture that is
    predicted. Whether there is a mark is decided there, where an error in the noise says next to nothing of it.
    first: the timestep, of 1000, from which on anything is learnt: what a picture is of is decided in noise
    """

    until: float
    rank: int = 16
    batch: int = 512
    steps: int = 10**6
    lr: float = 1e-3
    warmup: int = 40
    min_snr: float = 5.0
    most: float = 1.0
    first: int = 0
    seed: int = 77_002


def add_options(parser: argparse.ArgumentParser) -> None:
    """What all trainings are asked that begin with emoji-sd and pictures drawn anew."""
    parser.add_argument("--cache", type=Path, default=Path("out/emoji-packs"), help="folder for the downloaded packs")
    parser.add_argument("--minutes", type=float, default=5.0, help="all in all, the drawing of pictures included")
    parser.add_argument("--pictures", type=int, default=16_000)
    parser.add_argument("--captions", type=int, default=3, help="of each picture")
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--lr", type=float, default=Recipe.lr)
    parser.add_argument("--processes", type=int, default=2, help="that draw pictures")


class LowRank(nn.Module):
    """A weight [out, in, ...] beside which a change is learnt, which begins as none, or as an earlier one."""

    def __init__(self, weight: Tensor, rank: int, random: torch.Generator, begin: Factors | None = None):
        super().__init__()
        rows = weight.flatten(1)
        rank = min(rank, *rows.shape)
        down = (torch.rand(rank, rows.shape[1], generator=random) * 2 - 1) / math.sqrt(rows.shape[1])
        up = torch.zeros(len(rows), rank)
        if begin is not None:
            down, up = begin.down.flatten(1).float(), begin.scale * begin.up.flatten(1).float()
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def trained(
    unet: Any, data: Taught, recipe: Recipe, begin: Mapping[str, Factors] = MappingProxyType({})
) -> dict[str, Factors]:
    """What is learnt, by the names of the UNet's layers, on the CPU. The UNet is left as it was. begin: the same of an
    earlier training, which is gone on with."""
    device, random = data.latents.device, torch.Generator().manual_seed(recipe.seed)
    unet.to(device).requires_grad_(False)
    processors = dict(unet.attn_processors)
    if device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # the fused attention's backward pass is slow at these small sizes
    layers = {name: it for name, it in unet.named_modules() if isinstance(it, nn.Linear | nn.Conv2d)}
    for name, it in layers.items():
        low = LowRank(it.weight, recipe.rank, random, begin.get(f"unet.{name}"))
        parametrize.register_parametrization(it, "weight", low.to(device))
    learnt = [p for p in unet.parameters() if p.requires_grad]
    try:
        descend(lambda noisy, times, captions, _: unet(noisy, times, captions).sample, data, recipe, learnt)
        return {f"unet.{name}": _factors(it) for name, it in layers.items()}
    finally:
        unet.set_attn_processor(processors)
        for it in layers.values():
            parametrize.remove_parametrizations(it, "weight", leave_parametrized=False)


def descend(said: Said, data: Taught, recipe: Recipe, learnt: list[Tensor], goal: Said | None = None) -> None:
    """Adam on the denoising loss, until the recipe's end. learnt: what ``said`` is made with; goal: what it is to say
    instead of the noise, without gradients"""
    device, begun, step = data.latents.device, time.monotonic(), 0
    optimiser = torch.optim.Adam(learnt, recipe.lr, betas=(0.9, 0.99), fused=device.type == "cuda")
    random = torch.Generator(device).manual_seed(recipe.seed)
    abar = models.alphas_cumprod().to(device)
    hidden = (1 - abar) / abar
    weight = torch.clamp(recipe.min_snr * hidden, max=1.0)
    more = torch.clamp(hidden, 1.0, recipe.most)
    weight = weight * more / more.mean()
    total = torch.zeros((), device=device)
    while True:
        done = max((time.monotonic() - begun) / max(1e-9, recipe.until - begun), step / recipe.steps)
        if done >= 1:
            return
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / recipe.warmup) * (0.5 + 0.5 * math.cos(math.pi * done))
        draw = lambda most: torch.randint(most, (recipe.batch,), generator=random, device=device)  # noqa: E731
        rows, which = draw(len(data.latents)), draw(data.captions.shape[1])
        share = torch.rand(recipe.batch, generator=random, device=device)
        spread = (torch.arange(recipe.batch, device=device) + share) / recipe.batch
        times = (recipe.first + spread * (1000 - recipe.first)).long().clamp(max=999)
        clean, a = data.latents[rows], abar[times].view(-1, 1, 1, 1)
        noise = torch.randn(clean.shape, generator=random, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            state = a.sqrt() * clean + (1 - a).sqrt() * noise, times, data.captions[rows, which], rows
            with torch.no_grad():
                wanted = noise if goal is None else goal(*state)
            predicted = said(*state)
        errors = F.mse_loss(predicted.float(), wanted.float(), reduction="none").mean((1, 2, 3))
        loss = (errors * weight[times]).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        step, total = step + 1, total + loss.detach()
        if step % 50 == 0:
            print(f"step {step} {done:.1%} loss {float(total) / 50:.4f}", flush=True)
            total.zero_()


def _factors(layer: nn.Module) -> Factors:
    low, shape = layer.parametrizations.weight[0], layer.weight.shape
    down, up = low.down.detach().cpu(), low.up.detach().cpu()
    return Factors(down.view(-1, *shape[1:]), up.view(*up.shape, *[1] * (len(shape) - 2)))
