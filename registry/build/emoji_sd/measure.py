"""What the model draws, judged: objects, styles, and pairs it was never shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from conceptguard.measuring.judge import Assessor

from .suite import Object, Suite, pairs

STEPS = 25
GUIDANCE = 3.5


@dataclass
class Sample:
    object: str
    style: str | None
    prompt: str
    seed: int
    found_object: str = ""
    found_style: str = ""


@dataclass
class Figures:
    """Shares in [0, 1], NaN where nothing was asked; `confusions` counts (asked, found) pairs of objects.

    second: share of objects that another judge recognised
    """

    samples: int
    object: float
    style: float
    confusions: Counter = field(default_factory=Counter)
    second: float = float("nan")

    def __str__(self) -> str:
        worst = ", ".join(f"{a} as {b} x{n}" for (a, b), n in self.confusions.most_common(8))
        second = f" (second judge {self.second:.1%})" if self.second == self.second else ""
        return f"{self.samples} samples: object {self.object:.1%}{second}, style {self.style:.1%}" + (
            f" ({worst})" if worst else ""
        )


def generate(
    pipe: Any,
    samples: list[Sample],
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    batch: int = 32,
) -> torch.Tensor:
    """Images [n, 3, 128, 128] in [0, 1]; each sample has its own seed, so a batch changes nothing."""
    pipe.set_progress_bar_config(disable=True)
    images = []
    for i in tqdm(range(0, len(samples), batch), desc="samples", unit="batch"):
        part = samples[i : i + batch]
        generators = [torch.Generator().manual_seed(s.seed) for s in part]
        out = pipe(
            [s.prompt for s in part],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
        )
        images.append(torch.from_numpy(out.images).permute(0, 3, 1, 2))
    return torch.cat(images)


def pair_samples(
    wanted: list[tuple[Object, str]], templates: Sequence[str], rounds: int, seed: int, named: bool = True
) -> list[Sample]:
    """`rounds` samples of every object x style pair, over the templates in turn. named: whether the style counts."""
    samples = []
    for r in range(rounds):
        for k, (obj, style) in enumerate(wanted):
            text = templates[(k + r * (len(wanted) + 1)) % len(templates)]
            prompt = text.format(thing=obj.thing, noun=obj.name, style=style)
            samples.append(Sample(obj.name, style if named else None, prompt, seed + len(samples)))
    return samples


def figures(judge: Assessor, samples: list[Sample], images: torch.Tensor, second: Assessor | None = None) -> Figures:
    """What the judge reads in images [n, 3, h, w], and a second one where there is one."""
    found = judge.judge(images)
    for s, o, st in zip(samples, found.objects, found.styles, strict=True):
        s.found_object, s.found_style = o, st
    right = [s.object == s.found_object for s in samples]
    styled = [s.style == s.found_style for s in samples if s.style]
    wrong = Counter((s.object, s.found_object) for s in samples if s.object != s.found_object)
    again = [s.object == o for s, o in zip(samples, second.judge(images).objects, strict=True)] if second else []
    return Figures(len(samples), _share(right), _share(styled), wrong, _share(again))


def _share(hits: list[bool]) -> float:
    return float(np.mean(hits)) if hits else float("nan")


@dataclass
class Both:
    """Shares of pictures in which both objects are recognised; where a prompt says where they are, in their places."""

    samples: int
    both: float
    one: float

    def __str__(self) -> str:
        return f"{self.samples} samples: both objects {self.both:.1%}, at least one {self.one:.1%}"


def two_objects(
    pipe: Any,
    judge: Assessor,
    suite: Suite,
    templates: Sequence[str],
    n: int,
    seed: int,
    guidance: float,
) -> Both:
    """`n` prompts for two objects each, of templates with {one} and {other}, or with {left} and {right}."""
    rng = np.random.default_rng(seed)
    samples, asked = [], []
    for k in range(n):
        a, b = (suite.objects[i] for i in rng.choice(len(suite.objects), 2, replace=False))
        text = templates[k % len(templates)]
        prompt = text.format(one=a.thing, other=b.thing, left=a.thing, right=b.thing)
        samples.append(Sample(a.name, None, prompt, seed + k))
        asked.append((a.name, b.name, "{left}" in text))
    images = generate(pipe, samples, guidance)
    left, right = (judge.judge(half).objects for half in halves(images))
    hits = []
    for (a, b, placed), x, y in zip(asked, left, right, strict=True):
        hits.append(max((a == x) + (b == y), 0 if placed else (a == y) + (b == x)))
    return Both(n, float(np.mean([h == 2 for h in hits])), float(np.mean([h >= 1 for h in hits])))


def halves(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squares around the left and the right object of pictures [n, 3, s, s]."""
    s = images.shape[-1]
    side, top = round(s * 0.53), round(s * 0.235)
    rows = images[..., top : top + side, :]
    return rows[..., :side], rows[..., s - side :]


def measure(
    suite: Suite,
    pipe: Any,
    judge: Assessor,
    second: Assessor | None = None,
    seed: int = 500_000,
    rounds: int = 2,
    guidance: float = GUIDANCE,
) -> dict[str, Figures | Both]:
    """Figures for trained pairs, held-out pairs, prompts without a style, other words, and two objects at once.

    pipe: any text-to-image pipeline of diffusers'
    """
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    seen, unseen = pairs(suite, held_out=False), pairs(suite, held_out=True)
    once = [(o, next(iter(suite.styles))) for o in suite.objects]
    said = suite.strangers
    words = [
        Sample(o.name, None, word, seed + 200_000 + 10 * k + j)
        for k, o in enumerate(suite.objects)
        for j, word in enumerate(o.synonyms + o.phrases)
    ]
    sets = {
        "trained pairs": pair_samples(seen[::2], suite.judge_templates, 1, seed),
        "trained pairs, strangers' wordings": pair_samples(seen[1::2], said["styled"], 1, seed + 20_000),
        "held-out pairs": pair_samples(unseen, suite.judge_templates, 2 * rounds, seed + 50_000),
        "held-out pairs, strangers' wordings": pair_samples(unseen, said["styled"], 2 * rounds, seed + 60_000),
        "no style named": pair_samples(once, suite.judge_templates_plain, 1, seed + 100_000, named=False),
        "no style named, strangers' wordings": pair_samples(once, said["plain"], 1, seed + 110_000, named=False),
        "synonyms and phrases": words,
    }
    found: dict[str, Figures | Both] = {
        name: figures(judge, samples, generate(pipe, samples, guidance), second) for name, samples in sets.items()
    }
    for name, templates in (
        ("two objects", [*suite.judge_pairs, *suite.judge_pairs_placed]),
        ("two objects, strangers' wordings", [*said["pairs"], *said["placed"]]),
    ):
        found[name] = two_objects(pipe, judge, suite, templates, 120, seed + 300_000, guidance)
    return found


def contact_sheet(suite: Suite, pipe: Any, guidance: float, columns: int = 12) -> Image.Image:
    """48 pictures of trained pairs, in the judge's wordings."""
    rng, trained = np.random.default_rng(0), pairs(suite, held_out=False)
    chosen = [trained[i] for i in rng.choice(len(trained), 48, replace=False)]
    images = generate(pipe, pair_samples(chosen, suite.judge_templates, 1, 900_000), guidance)
    n, _, h, w = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * h, columns * w, 3), 255, np.uint8)
    for i, image in enumerate((images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()):
        y, x = divmod(i, columns)
        sheet[y * h : (y + 1) * h, x * w : (x + 1) * w] = image
    return Image.fromarray(sheet)
