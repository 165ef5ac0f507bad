"""``conceptguard bench check``: what looks at finished pictures cost."""

from __future__ import annotations

import time

import typer

from .complete import methods
from .options import DEVICE, JSON

COLUMNS = ["method", "ms", "ms_bare", "share", "start_seconds", "flagged", "side"]
LOOKS = ("nsfw", "text", "code", "watermark")


def check(
    method: list[str] | None = typer.Option(
        None, metavar="M", autocompletion=methods,
        help="A look that needs nothing but its name; may be repeated. Default: nsfw, text, code, watermark.",
    ),
    size: str = typer.Option("sd15", metavar="emoji-sd|sd15", help="sd15 is of that size, with random weights."),
    repeats: int = typer.Option(5, min=1, help="Looks, of which the median counts."),
    threads: int | None = typer.Option(None, min=1, help="CPU threads of torch; default: its own choice."),
    device: str | None = DEVICE,
    json: str | None = JSON,
) -> None:  # fmt: skip
    """Time last looks at one picture, each alone and all together, beside a generation of 25 steps.

    share is the time of a look over that of the generation, which is 25 times one step, timed on the same machine:
    below 0.05 nobody notices. side is the picture's; start_seconds what the first look takes longer, for loading.

    \b
    conceptguard bench check
    conceptguard bench check --method nsfw --method nudenet --size emoji-sd
    """
    import torch

    from .. import plugins
    from ..benchmarks.looks import measure
    from ..benchmarks.subjects import subject
    from ..errors import ConceptGuardError
    from ..policy import Guard
    from .devices import pick_device, pick_dtype
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    for name in method or ():
        kind = plugins.method(name)
        if "check_image" not in plugins.hooks(kind) or kind.needs != "nothing":
            raise ConceptGuardError(f"--method {name} is no look that acts by its name alone: try {', '.join(LOOKS)}")
    if threads:
        torch.set_num_threads(threads)
    given = {"watermark": {"payload": "guardian"}}
    guards = [Guard.model_validate({"method": name, **given.get(name, {})}) for name in method or LOOKS]
    place = pick_device(device)
    pipe = subject(size, place, pick_dtype("bf16" if place.startswith("cuda") else "fp32")).pipe
    rounds = (len(guards) + (len(guards) > 1)) * (repeats + 1) + 1
    with progress("looks", rounds) as tick:
        side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        rows = [{"model": size, **row} for row in measure(pipe, guards, side, repeats, tick)]
    made = {"threads": torch.get_num_threads(), "repeats": repeats}
    report("bench check", rows, time.perf_counter() - begin, json, place, columns=COLUMNS, **made)
