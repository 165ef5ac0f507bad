"""What the generator draws in one step, judged, and its teacher beside it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import conceptguard
from conceptguard.measuring.judge import Judge
from conceptguard.measuring.retrieval import RetrievalJudge

from ..emoji_sd.measure import figures, generate, pair_samples
from ..emoji_sd.suite import Object, Suite, load_suite
from .card import shares, write_card
from .prompts import chosen

SEED = 500_000
FEW = 48  # pairs, of more of which each half is asked in other wordings
SHIPPED = Path(__file__).resolve().parents[2] / "models"


def measure(
    models: Path, rounds: int, sheet: Path | None, objects: Sequence[str], styles: Sequence[str], options: str
) -> None:
    """Figures and README of ``models/emoji-sd-one-step``; sheet: a PNG of pictures; objects, styles: what it knows, if
    that is not all; options: of the command that made it"""
    suite = load_suite()
    judge, second = Judge.load(SHIPPED / "emoji-judge"), RetrievalJudge.load(SHIPPED / "emoji-retrieval")
    pipe, teacher = conceptguard.load_model(str(models / "emoji-sd-one-step")), conceptguard.load_model("emoji-sd")
    seen, unseen = (chosen(suite, objects, styles, held_out) for held_out in (False, True))
    said, several = suite.strangers, 2 if len(seen) > FEW else 1
    sets = {
        "trained pairs": pair_samples(seen[::several], suite.judge_templates, rounds, SEED),
        "trained pairs, strangers' wordings": pair_samples(
            seen[several - 1 :: several], said["styled"], rounds, SEED + 20_000
        ),
        "held-out pairs": pair_samples(unseen, suite.judge_templates, 2 * rounds, SEED + 50_000),
    }
    rows, taken = [], [0.0, 0.0]
    for name, samples in ((name, samples) for name, samples in sets.items() if samples):
        both = []
        for i, (model, steps, guidance) in enumerate(((pipe, 1, 1.0), (teacher, 25, 3.5))):
            begin = time.process_time()
            images = generate(model, samples, guidance, steps)
            taken[i] += time.process_time() - begin
            both.append(figures(judge, samples, images, second))
        print(f"{name}: {both[0]}\n  teacher: {both[1]}", flush=True)
        rows.append(f"| {name} | {len(samples)} | {shares(both[0])} | {shares(both[1])} |")
    drawn = sum(map(len, sets.values()))
    knows = f"{', '.join(objects) or 'all objects'} in {', '.join(styles) or 'all styles'}"
    write_card(models / "emoji-sd-one-step", rows, knows, options, taken[0] / drawn, taken[1] / drawn)
    if sheet:
        contact_sheet(pipe, suite, seen).save(sheet)


def contact_sheet(pipe: Any, suite: Suite, seen: list[tuple[Object, str]], columns: int = 12) -> Image.Image:
    """Up to four rows of pictures of trained pairs."""
    some = seen[:: max(1, len(seen) // (4 * columns))][: 4 * columns]
    some = (some * columns)[: max(columns, len(some) // columns * columns)]
    images = generate(pipe, pair_samples(some, suite.judge_templates, 1, 900_000), 1.0, 1)
    tall = torch.cat([torch.cat(list(row), 2) for row in images.split(columns)], 1)
    return Image.fromarray((tall.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
