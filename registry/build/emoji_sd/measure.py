"""What the model draws, judged: objects, styles, and pairs it was never shown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from conceptguard.measuring.judge import Judge

from .captions import judge_prompt
from .export import load
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
    """Shares in [0, 1]; `confusions` counts (asked, found) pairs of objects."""

    samples: int
    object: float
    style: float
    confusions: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        worst = ", ".join(f"{a} as {b} x{n}" for (a, b), n in self.confusions.most_common(8))
        return f"{self.samples} samples: object {self.object:.1%}, style {self.style:.1%}" + (
            f" ({worst})" if worst else ""
        )


def generate(
    pipe: StableDiffusionPipeline,
    samples: list[Sample],
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    batch: int = 16,
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


def pair_samples(suite: Suite, wanted: list[tuple[Object, str]], rounds: int, seed: int) -> list[Sample]:
    """`rounds` samples of every pair, over the judge templates in turn."""
    samples = []
    for r in range(rounds):
        for k, (obj, style) in enumerate(wanted):
            samples.append(Sample(obj.name, style, judge_prompt(suite, obj, style, k + r), seed + len(samples)))
    return samples


def figures(judge: Judge, samples: list[Sample], images: torch.Tensor) -> Figures:
    found = judge.judge(images)
    for s, o, st in zip(samples, found.objects, found.styles, strict=True):
        s.found_object, s.found_style = o, st
    right = [s.object == s.found_object for s in samples]
    styled = [s.style == s.found_style for s in samples if s.style]
    wrong = Counter((s.object, s.found_object) for s in samples if s.object != s.found_object)
    return Figures(len(samples), float(np.mean(right)), float(np.mean(styled)) if styled else float("nan"), wrong)


def measure(
    suite: Suite, model: Path, judge_folder: Path, seed: int = 500_000, rounds: int = 3, guidance: float = GUIDANCE
) -> dict[str, Figures]:
    """Figures for trained pairs, held-out pairs, prompts without a style, and synonyms."""
    pipe = load(model)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    judge = Judge.load(judge_folder)
    plain = [
        Sample(o.name, None, judge_prompt(suite, o, None, k), seed + 100_000 + k) for k, o in enumerate(suite.objects)
    ]
    synonyms = [
        Sample(o.name, None, word, seed + 200_000 + 10 * k + j)
        for k, o in enumerate(suite.objects)
        for j, word in enumerate(o.synonyms + o.phrases)
    ]
    sets = {
        "trained pairs": pair_samples(suite, pairs(suite, held_out=False), rounds, seed),
        "held-out pairs": pair_samples(suite, pairs(suite, held_out=True), 2 * rounds, seed + 50_000),
        "no style named": plain,
        "synonyms and phrases": synonyms,
    }
    return {name: figures(judge, samples, generate(pipe, samples, guidance)) for name, samples in sets.items()}


def contact_sheet(images: torch.Tensor, columns: int) -> np.ndarray:
    """uint8 [rows * h, columns * w, 3]."""
    n, _, h, w = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * h, columns * w, 3), 255, np.uint8)
    for i, image in enumerate((images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()):
        y, x = divmod(i, columns)
        sheet[y * h : (y + 1) * h, x * w : (x + 1) * w] = image
    return sheet
