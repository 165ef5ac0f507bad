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
from ..emoji_sd.optimise import Optimiser
from .lessons import batch_of, lessons_of
from .model import export, learn_tokenizer, make_model, make_processor


@dataclass(frozen=True)
class Recipe:
    """minutes: of CPU time, after which the last step is made, and clock, the same by the clock"""

    minutes: float = 40.0
    clock: float = 90.0
    batch: int = 128
    lr: float = 0.02  # of Muon
    adam_lr: float = 2e-3
    tower: float = 0.4  # the rates of the picture tower, which can see already, as a share of these
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


def train(words: Words, folder: Path, recipe: Recipe, out: Path, encoder: Path) -> None:
    """Train on the sheet in ``folder``, and write the model's folder. encoder: whose picture tower it begins with"""
    begun, clock = time.process_time(), time.perf_counter()
    torch.manual_seed(recipe.seed)
    rng, random = np.random.default_rng(recipe.seed), torch.Generator().manual_seed(recipe.seed)
    styles = words.styles
    pairs = [(name, style) for name in words.things for style in styles]
    corpus = [lesson for pair in pairs for _ in range(8) for lesson in lessons_of(words, *pair, rng)]
    corpus += [lesson for name in words.things for lesson in words.told(name)]
    tokenizer = learn_tokenizer(f"{one.prompt} {one.answer}" for one in corpus)
    pictures, seen = tiles(folder)
    model = make_model(tokenizer, encoder).train()
    tower = list(model.model.vision_tower.parameters())
    known = {id(one) for one in tower}
    optims = [
        (1.0, Optimiser([one for one in model.parameters() if id(one) not in known], recipe.lr, recipe.adam_lr)),
        (recipe.tower, Optimiser(tower, recipe.lr, recipe.adam_lr)),
    ]
    bar, step, done = tqdm(total=1000, desc="emoji-captioner", mininterval=5), 0, 0.0
    while done < 1.0:
        chosen = seen[torch.randint(len(seen), (recipe.batch,), generator=random)]
        given = batch_of(tokenizer, [lessons_of(words, *pairs[i], rng) for i in chosen.tolist()])
        with torch.autocast("cpu", torch.bfloat16):
            states = model.model(
                input_ids=given.ids, pixel_values=views(pictures[chosen], random), attention_mask=given.mask,
                position_ids=given.places, use_cache=False,
            ).last_hidden_state  # fmt: skip
            said = given.labels[:, 1:]
            logits = model.lm_head(states[:, :-1][said != -100])
        loss = F.cross_entropy(logits.float(), said[said != -100])
        loss.backward()
        rate = min(1.0, (step + 1) / 20) * min(1.0, 1.1 * (1 - done) + 0.01)
        for share, optim in optims:
            optim.step(rate * share)
            optim.zero_grad()
        step += 1
        spent, by_clock = time.process_time() - begun, time.perf_counter() - clock
        done = max(spent / (60 * recipe.minutes), by_clock / (60 * recipe.clock))
        bar.n = round(1000 * done)
        bar.set_postfix(step=step, loss=f"{loss.item():.3f}", cpu=f"{spent:.0f} s")
    bar.close()
    print(f"{step} steps of {recipe.batch}, {spent / 60:.1f} minutes of CPU time, loss {loss.item():.4f}", flush=True)
    export(model.eval(), make_processor(tokenizer), out)
