"""What last looks cost a picture, beside the generation that draws it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from ..hosts.images import Pictures
from ..policy import Guard, Policy
from ..sessions.attach import attach

STEPS = 25
Row = dict[str, Any]


def measure(
    pipe: Any, guards: Sequence[Guard], side: int, repeats: int, tick: Callable[[int], None] = lambda k: None
) -> list[Row]:
    """One row for each guard alone, and one for all of them together.

    ms: of one picture of ``side`` x ``side`` pixels with a line of writing; the median. ms_bare: of a generation of
    STEPS steps, from the median of three steps of the pipeline, nothing decoded; share: ms over ms_bare. start_seconds:
    what the first look takes longer than the median, for which a detector is loaded: nothing where another row did.
    """
    bare = 1000 * STEPS * _step(pipe)
    tick(1)
    picture = poster(side).to(pipe._execution_device)
    rows = []
    for some in [*([guard] for guard in guards), list(guards)] if len(guards) > 1 else [list(guards)]:
        with attach(Pictures(), Policy(on_violation="flag", guards=some)) as session:
            times = []
            for _ in range(repeats + 1):
                begin = time.perf_counter()
                session.check_image(picture, [None])
                times.append(time.perf_counter() - begin)
                tick(1)
            flagged = sorted({v.guard for v in session.receipt.verdicts if v.flagged})
        ms = 1000 * statistics.median(times[1:])
        rows.append({
            "method": ", ".join(guard.method for guard in some), "ms": round(ms, 3), "ms_bare": round(bare, 1),
            "share": round(ms / bare, 4), "start_seconds": round(max(0.0, times[0] - ms / 1000), 3),
            "flagged": ", ".join(flagged), "side": side, "steps": STEPS,
        })  # fmt: skip
    return rows


def poster(side: int) -> torch.Tensor:
    """A plain picture [1, 3, side, side] with one line of writing."""
    picture = Image.new("RGB", (side, side), (200, 220, 240))
    text = ImageDraw.Draw(picture)
    text.text(
        (side // 8, side // 2), "good morning", fill=(20, 20, 20), font=ImageFont.load_default(max(8, side // 10))
    )
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.reshape(1, side, side, 3).permute(0, 3, 1, 2) / 255


def _step(pipe: Any) -> float:
    """Seconds of one step, guidance on."""
    ends: list[float] = []

    def ended(own: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if own._execution_device.type == "cuda":
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        return values

    pipe("a red apple", num_inference_steps=4, output_type="latent", callback_on_step_end=ended)
    return statistics.median(after - before for before, after in pairwise(ends))
