"""``conceptguard bench many``: how much sooner workers of a cluster are done than one process."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from .options import DEVICE, DTYPE, GPUS, JSON, MODEL, WORKERS

if TYPE_CHECKING:
    from ..measuring.parts import Part
    from .on_ray import On

COLUMNS = ["n", "ratio_peer", "peer", "seconds", "seconds_peer", "start_seconds", "start_seconds_peer", "same"]


def many(
    n: int = typer.Option(48, min=1, help="Pictures."),
    steps: int = typer.Option(25, min=1, help="Denoising steps."),
    batch: int = typer.Option(4, min=1, help="Pictures in a piece."),
    on: str = typer.Option("ray", metavar="ray|ray://HOST:PORT", help="As for generate."),
    workers: int | None = WORKERS,
    gpus: float | None = GPUS,
    model: str = MODEL,
    device: str | None = DEVICE,
    dtype: str = DTYPE,
    json: str | None = JSON,
) -> None:
    """Time the same pictures under the policy demo, drawn by one process and then by workers of a Ray cluster.

    ratio_peer is their time over that of one process, once models are loaded and all have drawn; start_seconds is what
    comes before. same is the share of pictures that are bit for bit those of one process.

    \b
    OMP_NUM_THREADS=1 conceptguard bench many --workers 2
    """
    import torch

    from ..measuring.parts import Part
    from ..measuring.samples import Recipe
    from ..measuring.suite import Sample, load_suite
    from ..policy_file import load_policy
    from .loading import drawing_under
    from .on_ray import On
    from .output import report

    begin = time.perf_counter()
    words, policy, recipe = load_suite("emoji-sd").all_concepts, load_policy("demo"), Recipe(steps, batch=batch)
    samples = [Sample(f"a {words[i % len(words)]}, noto style", i, "object", "") for i in range(n)]
    parts = [Part(policy, tuple(samples[i : i + batch]), recipe) for i in range(0, n, batch)]
    load = partial(drawing_under, model, device, dtype)
    _, alone, start_alone, own = _timed(On(), load, parts)
    place, seconds, start, others = _timed(On(on, workers, gpus), load, parts)
    same = sum(a == b for i in own for a, b in zip(own[i], others[i])) / n
    row = {"model": model, "n": n, "ratio_peer": round(seconds / alone, 3), "peer": "one process",
           "seconds": round(seconds, 2), "seconds_peer": round(alone, 2), "start_seconds": round(start, 2),
           "start_seconds_peer": round(start_alone, 2), "same": same}  # fmt: skip
    made = {"threads": torch.get_num_threads(), "steps": steps, "batch": batch, "workers": workers}
    report("bench many", [row], time.perf_counter() - begin, json, place, columns=COLUMNS, **made)


def _timed(on: On, load: Any, parts: list[Part]) -> tuple[str, float, float, dict[int, list[str]]]:
    """(device, seconds, seconds before, digests of the pictures of each part)."""
    from ..measuring.parts import draw_part
    from .on_ray import pool
    from .progress import progress

    began = time.perf_counter()
    with pool(on, load, draw_part) as at, progress("pictures", sum(map(len, parts))) as tick:
        # Workers are hired as there is work for them: until all have drawn something, they are not counted.
        first = [parts[0]] * (on.workers or 1) * 2
        print(f"conceptguard: {on.where or 'one process'}", file=sys.stderr)
        list(at.each(first, lambda n: None, len))
        ready = time.perf_counter()
        found = {i: drawn.pictures.digests for i, drawn in at.each(parts, tick, len)}
        return at.device, time.perf_counter() - ready, ready - began, found
