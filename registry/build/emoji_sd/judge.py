"""Train the judge on renderings: never on the generator's training views, never on anything generated.

Softness, blur and compression come from plain image operations, so that the judge reads a soft picture without having
seen what this autoencoder does to one.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tqdm import tqdm

from conceptguard.measuring.judge import NONE, Judge

from . import processes
from .optimise import Optimiser
from .render import View, coloured, find_icon, icon, on_ground
from .scenes import COLOURS
from .suite import Suite, icon_in

TURNED, COLOURED = 0.06, 0.12  # shares of renderings that are upside down, that are in one colour
EXTRA_PACKS = ("twemoji", "emojione", "noto-v1")  # for the object head only
SIDE = 80  # pixels of a stored rendering; the judge sees 64 of them after augmentation
BACKGROUNDS = ("white", "white", "white", "#cfe3fb", "#d3f2d2", "#fbd5e3", "#fbf2c0", "#dcdcdc", "#e8e0f5", "#fff7ee")

# Other icons that show, or look like, an object of the suite: neither that object nor "none".
AMBIGUOUS = frozenset((Path(__file__).parent / "ambiguous.txt").read_text().split())
CLOCKS = ("oclock", "thirty")  # icons of a clock, one for every half hour


@dataclass(frozen=True)
class JudgeRecipe:
    """The weights that ship had 4000 steps of 96 pictures, at rates of 0.02 and 3e-3, and read as well."""

    views: int = 20  # of each object x style
    extra_views: int = 6  # of each object in each extra pack
    none_names: int = 300
    none_views: int = 2
    steps: int = 5600
    batch: int = 48
    lr: float = 0.05  # of Muon, at pointwise convolutions and the object head
    adam_lr: float = 1e-2
    seed: int = 77_000  # far from the generator's seeds


@dataclass
class Renderings:
    images: torch.Tensor  # uint8 [n, 3, SIDE, SIDE]
    objects: torch.Tensor  # [n]; the last class is "none"
    styles: torch.Tensor  # [n]; -1 where the pack is none of the styles


def _view(rng: np.random.Generator) -> View:
    # Wider than the generator's views, and with other backgrounds.
    return View(
        scale=float(rng.uniform(0.78, 1.06)),
        dx=float(rng.uniform(-0.07, 0.07)),
        dy=float(rng.uniform(-0.07, 0.07)),
        angle=float(rng.uniform(-12, 12)) + 180.0 * bool(rng.random() < TURNED),
        flip=bool(rng.random() < 0.25),
    )


def other_names(suite: Suite, packs: dict[str, dict]) -> list[str]:
    """Emojis that all four packs have and that show nothing from the suite."""
    shared = set.intersection(
        *({*packs[p]["icons"], *packs[p].get("aliases", {})} for p in (s.pack for s in suite.styles.values()))
    )
    mine = {o.icon for o in suite.objects} | {i for o in suite.objects for i in o.icons.values()}
    words = {w for o in suite.objects for w in o.name.split()}
    unlike = [n for n in shared if n not in mine | AMBIGUOUS and not words & set(n.split("-"))]
    return sorted(n for n in unlike if "skin-tone" not in n and not n.endswith(CLOCKS))


def draw(
    suite: Suite, packs: dict[str, dict], recipe: JudgeRecipe, seed: int, views: int, extra: int, nones: list[str]
) -> Renderings:
    rng = np.random.default_rng(seed)
    images, objects, styles = [], [], []

    def add(pack: str, name: str, label: int, style: int, count: int, pixels: int | None = None) -> None:
        if find_icon(packs[pack], name) is None:
            return
        for _ in range(count):
            rgba = icon(packs[pack], name, SIDE, _view(rng))
            if rng.random() < COLOURED:
                rgba = coloured(rgba, str(rng.choice(list(COLOURS.values()))))
            # As many squares a side as the stored rendering has room for, where the style has squares.
            squares = pixels and round(pixels * float(rng.uniform(0.8, 1.25)))
            images.append(on_ground([rgba], str(rng.choice(BACKGROUNDS)), squares))
            objects.append(label)
            styles.append(style)

    drawn = list(enumerate(suite.styles.values()))
    for label, obj in enumerate(tqdm(suite.objects, desc="judge renderings", unit="object")):
        for style, it in drawn:
            add(it.pack, icon_in(obj, it.pack), label, style, views, it.pixels)
        for pack in EXTRA_PACKS:
            add(pack, icon_in(obj, pack), label, -1, extra)
    for name in nones:
        for style, it in drawn:
            add(it.pack, name, len(suite.objects), style, recipe.none_views, it.pixels)
    data = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Renderings(data, torch.tensor(objects), torch.tensor(styles))


def nothing(n: int, size: int, gen: torch.Generator) -> torch.Tensor:
    """Pictures of nothing [n, 3, size, size]: flat, noisy, cloudy and smeared ones."""
    rand = lambda *s: torch.rand(*s, generator=gen)  # noqa: E731
    out = torch.where(rand(n, 1, 1, 1) < 0.4, torch.ones(()), rand(n, 3, 1, 1)).expand(n, 3, size, size).clone()
    for i in range(n):
        kind = int(rand(1) * 5)
        if kind == 0:
            continue
        cells = int(2 ** (1 + rand(1) * 5))
        cloud = F.interpolate(rand(1, 3 if rand(1) < 0.7 else 1, cells, cells), (size, size), mode="bicubic")[0].clamp(
            0, 1
        )
        if kind == 1:
            out[i] = cloud
        elif kind == 2:
            out[i] = (out[i] + 0.5 * rand(1) * torch.randn(3, size, size, generator=gen)).clamp(0, 1)
        elif kind == 3:  # a smear on a plain ground: what a half-erased picture looks like
            mask = (F.interpolate(rand(1, 1, 4, 4), (size, size), mode="bicubic")[0] - 0.4).clamp(0, 1) * 2
            out[i] = out[i] * (1 - mask.clamp(0, 1)) + cloud * mask.clamp(0, 1)
        else:  # black and white scribble
            out[i] = (cloud.mean(0, keepdim=True) > 0.5 + 0.1 * float(rand(1))).float()
    return out


def augment(images: torch.Tensor, size: int, gen: torch.Generator) -> torch.Tensor:
    """uint8 [n, 3, SIDE, SIDE] to float [n, 3, size, size]: shift, softness, block noise, light."""
    n = len(images)
    rand = lambda *s: torch.rand(*s, generator=gen)  # noqa: E731
    x = images.float() / 255
    zoom, shift = 0.92 + 0.16 * rand(n), 0.08 * (rand(n, 2) - 0.5)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = zoom, zoom, shift
    x = F.grid_sample(
        x, F.affine_grid(theta, (n, 3, size, size), align_corners=False), "bilinear", "border", align_corners=False
    )
    # One softness per chunk: fewer kernels than one per image, and still another mix in every batch.
    parts = []
    for part in x.chunk(8):
        kind = int(rand(1) * 4)
        if kind == 1:
            side = int(size * (0.35 + 0.6 * float(rand(1))))
            part = F.interpolate(
                F.interpolate(part, (side, side), mode="bilinear", antialias=True), (size, size), mode="bicubic"
            )
        elif kind == 2:
            sigma = 0.3 + 1.2 * float(rand(1))
            k = torch.exp(-(torch.arange(-3, 4) ** 2) / (2 * sigma**2))
            k = (k / k.sum()).view(1, 1, 1, 7).expand(3, 1, 1, 7)
            part = F.conv2d(F.pad(part, (3, 3, 3, 3), "replicate"), k, groups=3)
            part = F.conv2d(part, k.transpose(2, 3), groups=3)
        if rand(1) < 0.4:  # blocky and grainy errors, as a lossy codec leaves around edges
            cells = int(8 + 24 * float(rand(1)))
            noise = torch.randn(len(part), 3, cells, cells, generator=gen)
            edges = (part - F.avg_pool2d(part, 5, 1, 2, count_include_pad=False)).abs().mean(1, keepdim=True) * 6
            part = part + (0.02 + 0.08 * float(rand(1)) * edges) * F.interpolate(noise, (size, size), mode="nearest")
        parts.append(part)
    x = torch.cat(parts)
    x = (x - 0.5) * (0.85 + 0.25 * rand(n, 1, 1, 1)) + 0.5 + 0.1 * (rand(n, 3, 1, 1) - 0.5)
    return x.clamp(0, 1)


def train_judge(suite: Suite, packs: dict[str, dict], recipe: JudgeRecipe, out: Path) -> dict[str, float]:
    """Writes config.json and model.safetensors to `out`; returns accuracies on renderings that were not trained on."""
    processes.keep_memory()
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    names = list(rng.permutation(other_names(suite, packs)))
    train_none, test_none = names[: recipe.none_names], names[recipe.none_names : recipe.none_names + 60]
    data = draw(suite, packs, recipe, recipe.seed + 1, recipe.views, recipe.extra_views, train_none)
    test = draw(suite, packs, recipe, recipe.seed + 2, 3, 0, test_none)
    model = Judge([o.name for o in suite.objects] + [NONE], list(suite.styles))
    none = len(suite.objects)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device, memory_format=torch.channels_last)
    optim = Optimiser(model.parameters(), recipe.lr, recipe.adam_lr)
    gen = torch.Generator().manual_seed(recipe.seed + 3)
    blank = recipe.batch // 16
    bar = tqdm(range(recipe.steps), desc="judge", unit="step", mininterval=5)
    for step in bar:
        pick = torch.randint(len(data.images), (recipe.batch - blank,), generator=gen)
        x = torch.cat([augment(data.images[pick], model.size, gen), nothing(blank, model.size, gen)])
        y = torch.cat([data.objects[pick], torch.full((blank,), none)])
        s = torch.cat([data.styles[pick], torch.full((blank,), -1)])
        x, y, s = x.to(device, memory_format=torch.channels_last), y.to(device), s.to(device)
        objects, styles = model(x)
        loss = F.cross_entropy(objects, y, label_smoothing=0.05) + F.cross_entropy(styles, s, ignore_index=-1)
        optim.zero_grad()
        loss.backward()
        optim.step(min(1.0, 10 * (step + 1) / recipe.steps) * (0.5 + 0.5 * math.cos(math.pi * step / recipe.steps)))
        if step % 100 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    model.eval().cpu()
    unseen = draw(suite, packs, recipe, recipe.seed + 5, 1, 0, test_none)
    calibrate(model, augment(unseen.images, model.size, gen), unseen.objects)

    figures = evaluate(model, test, none, recipe)
    out.mkdir(parents=True, exist_ok=True)
    config = {"objects": model.objects, "styles": model.styles, "size": model.size, "width": model.width}
    config["temperature"] = model.temperature
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, out / "model.safetensors", metadata={"format": "pt"}
    )
    return figures


@torch.no_grad()
def calibrate(model: Judge, images: torch.Tensor, labels: torch.Tensor) -> None:
    """One temperature for the object logits (Guo et al., 2017), the best of a row of them for images not trained on."""
    logits = torch.cat([model(part)[0] for part in images.split(64)])
    tried = torch.logspace(-1, 1, 81)
    model.temperature = float(tried[torch.stack([F.cross_entropy(logits / t, labels) for t in tried]).argmin()])


def calibration_error(sure: torch.Tensor, right: torch.Tensor, bins: int = 10) -> float:
    """Expected calibration error: how far from its share of right answers a probability is, weighted by how many."""
    places = (sure * bins).long().clamp(max=bins - 1)
    gaps = [(sure[places == b].mean() - right[places == b].float().mean()).abs() * (places == b).sum()
            for b in range(bins) if (places == b).any()]  # fmt: skip
    return float(sum(gaps) / len(sure))


@torch.no_grad()
def evaluate(model: Judge, test: Renderings, none: int, recipe: JudgeRecipe) -> dict[str, float]:
    """Accuracies on sharp and on softened renderings, and on pictures of nothing."""
    gen = torch.Generator().manual_seed(recipe.seed + 4)
    known = test.objects != none
    names = [model.objects[i] for i in test.objects.tolist()]
    styles = [model.styles[i] for i in test.styles.tolist()]
    share = lambda a, b, keep: float(np.mean([p == q for p, q, k in zip(a, b, keep, strict=True) if k]))  # noqa: E731
    sharp = model.judge(test.images.float() / 255)
    soft = model.judge(augment(test.images, model.size, gen))
    blank = model.judge(nothing(400, model.size, gen))
    figures = {
        "object_sharp": share(sharp.objects, names, known),
        "object_soft": share(soft.objects, names, known),
        "style_sharp": share(sharp.styles, styles, known),
        "style_soft": share(soft.styles, styles, known),
        "style_of_other_emojis": share(sharp.styles, styles, ~known),
        "other_emoji_is_none": share(sharp.objects, names, ~known),
        "nothing_is_none": float(np.mean([o == NONE for o in blank.objects])),
        "calibration_error": calibration_error(
            soft.object_probs.amax(1), torch.tensor([p == q for p, q in zip(soft.objects, names, strict=True)])
        ),
    }
    return {k: round(v, 4) for k, v in figures.items() if not math.isnan(v)}
