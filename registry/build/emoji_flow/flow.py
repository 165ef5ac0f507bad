"""Train the transformer on cached latents by rectified flow, and both text encoders a little with it.

The noise levels are logit-normal and shifted as SD 3's sampler shifts them (Esser et al. 2024), so that training meets
what sampling asks.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm
from transformers import CLIPTokenizer

from ..emoji_sd import processes
from ..emoji_sd.captions import Captions
from ..emoji_sd.latents import Latents
from ..emoji_sd.optimise import Optimiser
from ..emoji_sd.scenes import Scene
from ..emoji_sd.suite import load_suite
from ..emoji_sd.text import encode, strange_words, token_embedding
from . import counted, models, text


@dataclass(frozen=True)
class FlowRecipe:
    """`minutes`, if given, ends the schedule by the clock instead of after `steps`."""

    steps: int = 4_500  # of 64: 288,000 pictures, at 24 a second and core
    minutes: float | None = None
    batch: int = 64  # over all processes
    lr: float = 0.01  # of Muon, at matrices
    adam_lr: float = 1e-3  # at all else
    text_lr: float = 1e-4  # at the encoder that could read before
    warmup: int = 100
    ema: float = 0.998
    seed: int = 0
    save_every: float = 180.0  # seconds


def make_net(start: Path, tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    """What is trained: the transformer with an input of the width that the encoders fill, and the encoders.

    start: emoji-sd's folder, see `text.start_from`
    """
    theirs = text.start_from(start)
    net = nn.ModuleDict({
        "transformer": models.make_transformer(models.TEXT),
        "clip_l": models.clip_l_from(theirs),
        "clip_g": models.clip_g_from(theirs),
    })  # fmt: skip
    for name in ("clip_l", "clip_g"):
        # Words are learned by then: their 8 million numbers would cost the optimiser more than all else.
        token_embedding(net[name]).requires_grad_(False)
        net[name].set_attn_implementation("eager")
    net["clip_l"].text_projection.requires_grad_(False)  # ComfyUI leaves it out
    with torch.no_grad():
        # States that no norm has seen are ten times as large as what they are to stand beside.
        objects = [f"{it.thing}, {style} style" for it in load_suite().objects[::8] for style in load_suite().styles]
        states = text.embed(net["clip_l"], net["clip_g"], encode(tokenizer, objects))[0].flatten(0, 1)
        embedder = net["transformer"].context_embedder
        embedder.weight /= states.std(0) + 1e-3
        embedder.bias -= embedder.weight @ states.mean(0)
    return net


def levels(n: int, gen: torch.Generator) -> Tensor:
    """Noise levels [n] in (0, 1): logit-normal, stratified because the loss varies more with them than with anything
    else, and shifted."""
    drawn = torch.rand(n, generator=gen, device=gen.device)
    u = ((torch.arange(n, device=gen.device) + drawn) / n).clamp(1e-4, 1 - 1e-4)
    s = torch.sigmoid(math.sqrt(2) * torch.erfinv(2 * u - 1))
    return models.SHIFT * s / (1 + (models.SHIFT - 1) * s)


def flow_loss(
    net: nn.ModuleDict, attention: counted.CountedAttention, z: Tensor, ids: Tensor, gen: torch.Generator
) -> Tensor:
    """Mean squared error of the velocity, noise - z, for latents z [n, 16, h, w] and token ids [n, k].

    gen: on the device of all others
    """
    sigma = levels(len(z), gen)
    noise = torch.randn(z.shape, generator=gen, device=z.device)
    attention.counts = counted.counts(ids, gen)
    at = sigma.view(-1, 1, 1, 1)
    with torch.autocast(z.device.type, torch.bfloat16):
        states, pooled = text.embed(net["clip_l"], net["clip_g"], ids)
        found = net["transformer"]((1 - at) * z + at * noise, text.with_zero(states), pooled, 1000 * sigma).sample
    return F.mse_loss(found.float(), noise - z)


class Training:
    """Weights, their moving average and the optimisers' states: all that a checkpoint holds.

    start: emoji-sd's folder; rank, world: of the process, where several train
    """

    def __init__(self, recipe: FlowRecipe, start: Path, device: torch.device, rank: int = 0, world: int = 1):
        self.recipe, self.rank, self.world = recipe, rank, world
        self.tokenizer = CLIPTokenizer.from_pretrained(start / "tokenizer")
        self.net = make_net(start, self.tokenizer).to(device)
        self.attention = counted.CountedAttention()
        self.net["transformer"].set_attn_processor(self.attention)
        self.ema = copy.deepcopy(self.net).requires_grad_(False)
        reads = [p for p in self.net["clip_l"].parameters() if p.requires_grad]
        known = {id(p) for p in reads}
        self.params = [p for p in self.net.parameters() if p.requires_grad]
        rest = [p for p in self.params if id(p) not in known]
        self.optim = Optimiser(rest, recipe.lr, recipe.adam_lr, rank, world)
        self.reader = torch.optim.AdamW(reads, recipe.text_lr, betas=(0.9, 0.99), weight_decay=0.01)
        both = zip(self.ema.parameters(), self.net.parameters(), strict=True)
        self.averaged = [mean for mean, p in both if p.requires_grad]
        self.step, self.elapsed = 0, 0.0

    def update(self, loss: Tensor, rate: float) -> None:
        """One step at ``rate`` (0 to 1) of the learning rates."""
        self.optim.zero_grad(), self.reader.zero_grad()
        loss.backward()
        processes.average_gradients(self.params, self.world)
        nn.utils.clip_grad_norm_(self.params, 1.0)
        for group in self.reader.param_groups:
            group["lr"] = rate * self.recipe.text_lr
        self.optim.step(rate), self.reader.step()
        self.step += 1
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, self.params, 1 - decay)

    def save(self, path: Path) -> None:
        """What all processes call together, since each has a share of the optimiser."""
        state: dict[str, Any] = dict(optim=self.optim.state_dict(), reader=self.reader.state_dict(), step=self.step)
        state |= dict(net=self.net.state_dict(), ema=self.ema.state_dict(), elapsed=self.elapsed)
        if self.rank == 0:
            processes.save(state, path)

    def resume(self, path: Path) -> None:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        self.net.load_state_dict(saved["net"]), self.ema.load_state_dict(saved["ema"])
        self.optim.load_state_dict(saved["optim"]), self.reader.load_state_dict(saved["reader"])
        self.step, self.elapsed = saved["step"], saved["elapsed"]


class Steps(IterableDataset):
    """From ``step`` on, what each shows and says: places in ``scenes`` [n], token ids [n, k]; one step after another,
    also where several workers of a DataLoader share them."""

    def __init__(
        self, scenes: list[Scene], tokenizer: CLIPTokenizer, recipe: FlowRecipe, step: int, rank: int, world: int
    ):
        self.scenes, self.tokenizer, self.recipe = scenes, tokenizer, recipe
        self.step, self.rank, self.world = step, rank, world
        self.captions = Captions(load_suite(), strange_words(tokenizer))

    def seed(self, step: int) -> int:
        """Every step seeds itself, so that a resumed run needs no saved generator."""
        return (self.recipe.seed * 10_000_019 + step) * self.world + self.rank

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        info = get_worker_info()
        mine, workers = (info.id, info.num_workers) if info else (0, 1)
        for step in itertools.count(self.step + mine, workers):
            rng = np.random.default_rng(self.seed(step))
            pick = rng.integers(len(self.scenes), size=self.recipe.batch // self.world)
            said = [self.captions.write(self.scenes[i], rng).text for i in pick]
            # Nearly every caption fits into 48 places; the others are padding, which every fourth step has whole.
            yield torch.from_numpy(pick), encode(self.tokenizer, said, 77 if step % 4 == 0 else 48)


def batches(
    data: Latents,
    tokenizer: CLIPTokenizer,
    recipe: FlowRecipe,
    step: int,
    rank: int = 0,
    world: int = 1,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
    """From ``step`` on: latents, token ids, and the generator for all else, on the device."""
    steps = Steps(data.scenes, tokenizer, recipe, step, rank, world)
    latents = data.latents.to(device)
    # A GPU is faster than one process writes captions; on a CPU they are a hundredth of a step.
    workers = min(8, os.cpu_count() or 1) if latents.is_cuda else 0
    for at, (pick, ids) in enumerate(DataLoader(steps, batch_size=None, num_workers=workers), step):
        gen = torch.Generator(device).manual_seed(steps.seed(at))
        yield latents[pick.to(device)], ids.to(device), gen


def worker(rank: int, world: int, data: Latents, recipe: FlowRecipe, start: Path, work: Path) -> None:
    """One process of the training, from emoji-sd's text encoder in `start`, see `text.start_from`, or from
    `work/flow.pt`; rank 0 reports and saves that."""
    with processes.together(rank, world, port=29512) as device:
        _train(rank, world, device, data, recipe, start, work)


def _train(
    rank: int, world: int, device: torch.device, data: Latents, recipe: FlowRecipe, start: Path, work: Path
) -> None:
    torch.manual_seed(recipe.seed)
    train, path = Training(recipe, start, device, rank, world), work / "flow.pt"
    if path.exists():
        train.resume(path)
    begin, saved_at, losses, first = time.time() - train.elapsed, time.time(), [], train.step
    went = time.time()
    feed = batches(data, train.tokenizer, recipe, train.step, rank, world, device)
    bar = tqdm(total=100.0, desc="flow", unit="%", mininterval=5, disable=rank > 0,
               bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}")  # fmt: skip
    while True:
        train.elapsed = time.time() - begin
        done = train.elapsed / (60 * recipe.minutes) if recipe.minutes else train.step / recipe.steps
        done, now = processes.agreed(done, time.time() - saved_at > recipe.save_every, world)
        if now or done >= 1:
            train.save(path)
            saved_at = time.time()
        if done >= 1:
            break
        z, ids, gen = next(feed)
        loss = flow_loss(train.net, train.attention, z, ids, gen)
        train.update(loss, min(1.0, (train.step + 1) / recipe.warmup) * (0.5 + 0.5 * math.cos(math.pi * done)))
        losses.append(loss.detach())  # read seldom: reading waits for the device
        bar.update(100 * done - bar.n)
        if rank == 0 and train.step % 50 == 0:
            speed = (train.step - first) * recipe.batch / (time.time() - went)
            tqdm.write(f"step {train.step} {done:.1%} loss {torch.stack(losses).mean():.4f} {speed:.1f} images/s")
            losses = []
    bar.close()
