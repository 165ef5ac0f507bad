"""Train on views of the tiles, each drawn anew: turned, moved, scaled, mirrored, on grounds of another colour."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from conceptguard.files.yaml import read_yaml
from conceptguard.measuring.captioner.words import Words

from ..emoji_encoder.model import MEAN, SPREAD
from . import lessons
from .model import export, learn_tokenizer, make_model, make_processor


@dataclass(frozen=True)
class Recipe:
    """minutes: by the clock, after which the last step is made, whatever had been planned"""

    minutes: float = 30.0
    batch: int = 96
    lr: float = 1.5e-3
    warmup: int = 200
    told: float = 0.12  # share of texts without a picture
    seed: int = 24_240


def tiles(folder: Path) -> tuple[Tensor, Tensor]:
    """Tiles [objects x styles, 3, side, side] in [0, 1], and the places of those that are trained on."""
    said = read_yaml(folder / "examples.yaml")[0]
    side, classes, styles = said["tile"], said["classes"], said["styles"]
    sheet = torch.from_numpy(np.asarray(Image.open(folder / said["sheet"]).convert("RGB")).copy())
    grid = sheet.reshape(len(classes), side, len(styles), side, 3).permute(0, 2, 4, 1, 3)
    seen = [i for i in range(len(classes) * len(styles))
            if said["held"].get(classes[i // len(styles)]) != styles[i % len(styles)]]  # fmt: skip
    return grid.reshape(-1, 3, side, side).float() / 255, torch.tensor(seen)


def views(pictures: Tensor, random: torch.Generator) -> Tensor:
    """One view of each picture [n, 3, side, side], as the processor hands it to the model."""
    n, device = len(pictures), pictures.device

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=random, device=device)

    angle, scale = between(-14, 14) * math.pi / 180, between(0.94, 1.3)
    mirror = torch.where(between(0, 1) < 0.3, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 0, 1] = scale * angle.cos() * mirror, -scale * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = scale * angle.sin() * mirror, scale * angle.cos()
    theta[:, 0, 2], theta[:, 1, 2] = between(-0.16, 0.16), between(-0.16, 0.16)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    white = 1 - F.grid_sample(1 - pictures, grid, align_corners=False)  # outside of the tile is white
    ground = 0.72 + 0.28 * torch.rand(n, 3, 1, 1, generator=random, device=device)
    plain = (between(0, 1) < 0.4)[:, None, None, None]
    shown = white * torch.where(plain, torch.ones_like(ground), ground)
    mean, spread = (torch.tensor(one, device=device).view(3, 1, 1) for one in (MEAN, SPREAD))
    return (shown - mean) / spread


def train(words: Words, folder: Path, recipe: Recipe, out: Path) -> None:
    """Train on the sheet in ``folder``, and write the model's folder; its device is the fastest there is."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    random = torch.Generator(device).manual_seed(recipe.seed)
    pairs, told = lessons.texts(words, np.random.default_rng(recipe.seed))
    corpus = [f"{one.prompt} {one.answer}" for own in [*pairs, told] for one in own]
    tokenizer = learn_tokenizer(corpus)
    table = lessons.table(words, tokenizer, recipe.seed)
    ids, labels, rows, alone = (one.to(device) for one in table)
    pictures, seen = (one.to(device) for one in tiles(folder))
    model = make_model(tokenizer).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), recipe.lr, (0.9, 0.98), weight_decay=0.02, fused=True)
    without = round(recipe.batch * recipe.told)
    begun, seconds, step = time.perf_counter(), recipe.minutes * 60, 0
    bar = tqdm(total=round(seconds), desc="emoji-captioner", unit="s", mininterval=5)

    def pick(n: int, of: int) -> Tensor:
        return torch.randint(of, (n,), generator=random, device=device)

    while (spent := time.perf_counter() - begun) < seconds:
        rate = min(1.0, (step + 1) / recipe.warmup) * (0.5 + 0.5 * math.cos(math.pi * spent / seconds))
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * rate
        pair = seen[pick(recipe.batch - without, len(seen))]
        chosen = torch.cat([rows[pair, pick(len(pair), rows.shape[1])], alone[pick(without, len(alone))]])
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(input_ids=ids[chosen], pixel_values=views(pictures[pair], random)).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[chosen][:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 50 == 0:
            bar.n = round(spent)
            bar.set_postfix(step=step, loss=f"{loss.item():.3f}")
    bar.close()
    print(f"{step} steps of {recipe.batch}, loss {loss.item():.4f}", flush=True)
    export(model.eval(), make_processor(tokenizer), out)
