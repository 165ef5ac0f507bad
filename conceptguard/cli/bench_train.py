"""``conceptguard bench train``: what a step of a training costs."""

from __future__ import annotations

import time

import typer

from .options import JSON, SETTINGS, Usage, settings_of

COLUMNS = ["method", "model", "side", "set", "ratio_peer", "seconds", "seconds_peer", "memory_peer", "mb", "mb_peer"]


def train(
    method: list[str] | None = typer.Option(None, metavar="M", help="esd or spm; may be repeated. Default: both."),
    size: str = typer.Option("emoji-sd", metavar="emoji-sd|sd15", help="sd15 is of that size, with random weights."),
    side: int | None = typer.Option(None, min=8, help="Of the latents, in place of the model's own: less to compute."),
    steps: int = typer.Option(3, min=2, help="Steps of each; the first one is not counted."),
    threads: int = typer.Option(1, min=1, help="CPU threads."),
    settings: list[str] | None = SETTINGS,
    dtype: str = typer.Option("fp32", help="fp32 or bf16."),
    json: str | None = JSON,
) -> None:
    """Time a step of trainings against their authors' way of doing the same, on a CPU, each in a process of its own.

    The authors sample each state by a guided trajectory, here of its mean length, ask the model once for every
    prediction, and, of ESD, learn whole matrices in a second copy of it. Both train on one state a step. ratio_peer and
    memory_peer are ours over theirs: below 1 is faster, and smaller. mb is the most memory while it was trained, where
    Linux tells. --set is of our training.

    \b
    conceptguard bench train
    conceptguard bench train --size sd15 --side 32 --dtype bf16 --steps 2
    conceptguard bench train --size sd15 --side 32 --dtype bf16 --steps 2 --method esd --set rank=null
    """
    from .. import plugins
    from ..benchmarks.training import STEPS, measure
    from ..making.settings import make_settings
    from .devices import pick_dtype
    from .output import report
    from .progress import progress

    begin, names, given = time.perf_counter(), method or list(STEPS), settings_of(settings)
    for name in names:
        if name not in STEPS:
            raise Usage(f"--method {name}: there is a peer for {' and '.join(STEPS)}")
        make_settings(plugins.method(name), given)
    if size not in ("emoji-sd", "sd15"):
        raise Usage(f"--size {size}: write emoji-sd or sd15")
    rows = []
    with progress("rows", len(names)) as tick:
        for name in names:
            rows.append(measure(name, size, steps, side, pick_dtype(dtype), threads, given))
            tick(1)
    report("bench train", rows, time.perf_counter() - begin, json, "cpu", columns=COLUMNS, dtype=dtype, threads=threads)
