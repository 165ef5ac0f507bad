"""``conceptguard bench speech``: what guards cost whole answers, in whatever engine speaks them."""

from __future__ import annotations

import time

import typer

from .complete import models
from .options import DEVICE, DTYPE, JSON, Usage, split

COLUMNS = ["model", "phrases", "batch", "ratio_bare", "tokens_a_second", "tokens_a_second_bare", "same"]


def speech(
    model: str = typer.Option(
        "authors-lm", metavar="MODEL", autocompletion=models,
        help="A language model: embedded, of transformers, or converted for onnxruntime-genai.",
    ),
    n: int = typer.Option(10_000, min=1, help="Phrases in the bank."),
    batch: str = typer.Option("1,8", metavar="N,N", help="Prompts at once."),
    tokens: int = typer.Option(64, min=1, help="Tokens of an answer at most."),
    repeats: int = typer.Option(7, min=1, help="Rounds; in each, bare and guarded say the same prompts, in turn."),
    clock: str = typer.Option("wall", metavar="wall|cpu", help="cpu: processor time, for a machine that others share."),
    device: str | None = DEVICE,
    dtype: str = DTYPE,
    json: str | None = JSON,
) -> None:  # fmt: skip
    """Time whole answers under N phrases, beside the same model bare.

    ratio_bare is our time a token over the bare model's: 1.03 is 0.97 of its tokens a second. same is the share of
    answers that are the bare model's to the last token; the others would have said a phrase.

    \b
    conceptguard bench speech
    conceptguard bench speech --model ./my-onnx-model --n 10000 --batch 1,16
    """
    from ..benchmarks.speech import beside_bare
    from .loading import speaking
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    sizes = [int(size) for size in split(batch) if size.isdigit() and int(size)]
    if len(sizes) < len(split(batch)):
        raise Usage(f"--batch {batch}: write whole numbers, separated by commas")
    pair = speaking(model, device, dtype)
    reading = time.process_time if clock == "cpu" else time.perf_counter
    with progress("rounds", len(sizes) * (repeats + 1)) as tick:
        rows = [{"model": model, **row} for row in beside_bare(pair, n, sizes, tokens, repeats, reading, tick)]
    made = {"tokens": tokens, "repeats": repeats, "clock": clock}
    report("bench speech", rows, time.perf_counter() - begin, json, str(pair.device), columns=COLUMNS, **made)
