"""Contrastive training on renderings: each picture beside its caption, and beside what could have been said instead.

CLIP's loss compares a picture with the captions of its batch. With 134 objects a batch holds too few of them, so that
each picture is also compared with a text for every object, every style, every ground and every colour.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPModel, CLIPTokenizer

from ..emoji_sd.captions import Captions
from ..emoji_sd.data import Views, draw_views
from ..emoji_sd.judge import augment, nothing
from ..emoji_sd.optimise import Optimiser
from ..emoji_sd.scenes import COLOURS, TINTS, Scene, Thing
from ..emoji_sd.suite import Suite
from ..emoji_sd.text import encode, strange_words
from .model import MEAN, SIZE, SPREAD, WINDOW, learn_tokenizer, make_model, make_processor

SIDE = 80  # pixels of a stored rendering
CLOSE = 0.35  # share of single objects that are seen from so near that a part is outside
EMPTY = ("nothing", "an empty picture", "a plain background", "a blank picture", "a plain ground with nothing on it")


@dataclass(frozen=True)
class Recipe:
    """minutes: of CPU time, after which the last step is made, whatever had been planned"""

    views: int = 10  # of each object x style that is not held out
    batch: int = 128
    blank: int = 6  # of them
    minutes: float = 13.0
    lr: float = 0.02  # of Muon
    adam_lr: float = 2e-3
    seed: int = 91_000  # far from those of the generator, the judges and what is planted


class Axes:
    """What could have been said: a text for every object, style, ground and colour, in words that differ each time."""

    def __init__(self, suite: Suite, captions: Captions):
        self.suite, self.captions = suite, captions
        self.objects = {it.name: i for i, it in enumerate(suite.objects)}
        self.lists = {"style": list(suite.styles), "tint": [*TINTS, None], "colour": [*COLOURS, None]}

    def texts(self, rng: np.random.Generator) -> dict[str, list[str]]:
        """Texts of each axis, in order."""
        frames, pick = self.suite.training, lambda options: options[int(rng.integers(len(options)))]
        objects = []
        for it in self.suite.objects:
            thing, noun = self.captions.words(Thing(it), rng)
            objects.append(pick([thing, noun, pick(frames["plain"]).format(thing=thing, noun=noun, style="")]))
        styles = [f"{pick([name, *it.synonyms])} style" if rng.random() < 0.8 else name
                  for name, it in self.suite.styles.items()]  # fmt: skip
        tints = [*(pick(frames["grounds"]).format(tint=tint) for tint in TINTS), "on white"]
        colours = [*(pick(["{c}", "something {c}", "all in {c}"]).format(c=c) for c in COLOURS), "in its own colours"]
        return {"object": objects, "style": styles, "tint": tints, "colour": colours}

    def targets(self, scenes: Sequence[Scene]) -> dict[str, Tensor]:
        """Shares [n, texts] that add up to one on each axis."""
        found = {"object": torch.zeros(len(scenes), len(self.objects))}
        for i, scene in enumerate(scenes):
            for thing in scene.things:
                found["object"][i, self.objects[thing.object.name]] += 1 / len(scene.things)
        for axis, said in (
            ("style", [scene.style for scene in scenes]),
            ("tint", [scene.tint for scene in scenes]),
            ("colour", [scene.things[0].colour for scene in scenes]),
        ):
            places = torch.tensor([self.lists[axis].index(one) for one in said])
            found[axis] = F.one_hot(places, len(self.lists[axis])).float()
        return found


def seen(images: Tensor, gen: torch.Generator, near: Tensor) -> Tensor:
    """uint8 [n, 3, SIDE, SIDE] to floats [n, 3, SIZE, SIZE]: softened, moved, and where ``near`` says so a part."""
    n = len(images)
    # As large as a crop of a picture of 128 px is when a finder cuts it into nine or sixteen.
    scale = torch.where(near, 0.4 + 0.5 * torch.rand(n, generator=gen), torch.ones(n))
    room = torch.where(near, 0.7 * (1 - scale), torch.zeros(n))
    place = torch.zeros(n, 2, 3)
    place[:, 0, 0] = place[:, 1, 1] = scale
    place[:, :, 2] = (2 * torch.rand(n, 2, generator=gen) - 1) * room[:, None]
    soft = augment(images, 72, gen)
    grid = F.affine_grid(place, [n, 3, SIZE, SIZE], align_corners=False)
    return F.grid_sample(soft, grid, "bilinear", "border", align_corners=False)


def pixel_values(images: Tensor) -> Tensor:
    """As the processor hands pictures in [0, 1] to the towers."""
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(SPREAD).view(3, 1, 1)


def teach(suite: Suite, packs: dict[str, dict], words: CLIPTokenizer, recipe: Recipe, out: Path) -> CLIPModel:
    """Train, and write a folder in transformers' format, fp16. words: a tokenizer whose words mean nothing here."""
    begun = time.process_time()
    torch.manual_seed(recipe.seed)
    rng, gen = np.random.default_rng(recipe.seed), torch.Generator().manual_seed(recipe.seed)
    captions = Captions(suite, strange_words(words))
    axes = Axes(suite, captions)
    views = draw_views(suite, packs, recipe.views, recipe.seed, SIDE)
    corpus = [captions.write(scene, rng).text for scene in views.scenes for _ in range(3)]
    corpus += [text for _ in range(20) for texts in axes.texts(rng).values() for text in texts] + list(EMPTY)
    tokenizer = learn_tokenizer(corpus, out)
    model = make_model(tokenizer).train()
    optim = Optimiser(model.parameters(), recipe.lr, recipe.adam_lr)
    images = torch.from_numpy(views.images).permute(0, 3, 1, 2).contiguous()
    bar, step = tqdm(total=round(recipe.minutes * 60), desc="emoji-encoder", unit="s", mininterval=5), 0
    while (spent := time.process_time() - begun) < recipe.minutes * 60:
        loss = _loss(model, tokenizer, axes, views, images, recipe, rng, gen)
        optim.zero_grad()
        loss.backward()
        done = spent / (recipe.minutes * 60)
        optim.step(min(1.0, (step + 1) / 30) * (0.5 + 0.5 * math.cos(math.pi * done)))
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(60))
        step += 1
        bar.n = round(spent)
        bar.set_postfix(step=step, loss=f"{loss.item():.3f}")
    bar.close()
    model = model.eval().half()
    model.save_pretrained(out)
    make_processor(tokenizer).save_pretrained(out)
    return model.float()


def _loss(
    model: CLIPModel, tokenizer: CLIPTokenizer, axes: Axes, views: Views, images: Tensor, recipe: Recipe,
    rng: np.random.Generator, gen: torch.Generator,
) -> Tensor:  # fmt: skip
    chosen = torch.randint(len(images), (recipe.batch - recipe.blank,), generator=gen)
    scenes = [views.scenes[i] for i in chosen.tolist()]
    alone = torch.tensor([len(scene.things) == 1 and not scene.things[0].small for scene in scenes])
    near = alone & (torch.rand(len(scenes), generator=gen) < CLOSE)
    shown = torch.cat([seen(images[chosen], gen, near), nothing(recipe.blank, SIZE, gen)])
    written = [axes.captions.write(scene, rng) for scene in scenes]
    said = [c.text or "nothing" for c in written] + [EMPTY[int(i)] for i in rng.integers(len(EMPTY), size=recipe.blank)]
    groups = axes.texts(rng)
    rows = F.normalize(model.get_image_features(pixel_values(shown)).pooler_output, dim=1)
    texts = [*said, *(text for group in groups.values() for text in group)]
    ids = encode(tokenizer, texts, WINDOW)
    ends = int((ids == tokenizer.eos_token_id).int().argmax(1).max()) + 1
    columns = F.normalize(model.get_text_features(ids[:, :ends]).pooler_output, dim=1)
    logits = model.logit_scale.exp() * rows @ columns.T
    own, *others = logits.split([len(said), *map(len, groups.values())], dim=1)
    # Two captions of one thing in one style are no mistake for each other.
    same = _alike(scenes, [c.styled for c in written], recipe.blank)
    loss = (F.cross_entropy(own, same) + F.cross_entropy(own.T, same.T / same.T.sum(1, keepdim=True))) / 2
    wanted = axes.targets(scenes)
    weights = {"object": 1.0, "style": 0.3, "tint": 0.3, "colour": 0.3}
    for (axis, target), found in zip(wanted.items(), others, strict=True):
        loss = loss + weights[axis] * F.cross_entropy(found[: len(scenes)], target)
    return loss


def _alike(scenes: Sequence[Scene], styled: Sequence[bool], blank: int) -> Tensor:
    """Shares [n, n] of each caption for each picture: equal for all that say what it shows."""
    n = len(scenes) + blank
    same = torch.zeros(n, n)
    same[len(scenes) :, len(scenes) :] = 1
    what = [(frozenset(t.object.name for t in s.things), s.tint, s.things[0].colour) for s in scenes]
    for i, one in enumerate(what):
        for j, other in enumerate(what):
            same[i, j] = one == other and (not styled[j] or scenes[i].style == scenes[j].style)
    return same / same.sum(1, keepdim=True)
