"""``conceptguard generate``: pictures from any diffusers model, under a policy."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import typer

from .options import (
    CONFIG,
    DEVICE,
    DTYPE,
    GPUS,
    GUARD,
    GUIDANCE,
    JSON,
    MODEL,
    ON,
    OUT,
    POLICY,
    PROMPTS,
    SEED,
    STEPS,
    VARIANT,
    WORKERS,
    Usage,
)


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("generate", short_help="Draw pictures under a policy.")(generate)


def generate(
    prompt: list[str] | None = typer.Option(
        None, "--prompt", "-p", metavar="TEXT", help="What to draw; may be repeated."
    ),
    prompts: Path | None = PROMPTS,
    policy: str | None = POLICY,
    guard: list[str] | None = GUARD,
    model: str = MODEL,
    variant: str | None = VARIANT,
    config: str | None = CONFIG,
    negative_prompt: str | None = typer.Option(None, metavar="TEXT", help="What to steer away from."),
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seed: int = SEED,
    images_per_prompt: int = typer.Option(1, min=1, help="Pictures of each prompt."),
    batch: int = typer.Option(4, min=1, help="Of a file of prompts, so many at once."),
    width: int | None = typer.Option(None, help="Pixels; default: the model's own."),
    height: int | None = typer.Option(None, help="Pixels; default: the model's own."),
    compare: bool = typer.Option(
        False, help="Draw everything without the policy as well, in files ending in -without."
    ),
    device: str | None = DEVICE,
    dtype: str = DTYPE,
    on: str | None = ON,
    workers: int | None = WORKERS,
    gpus: float | None = GPUS,
    out: Path = OUT,
    html: Path | None = typer.Option(
        None,
        metavar="FILE",
        help="A page that shows all pictures and what guards did; of a file of prompts, report.html.",
    ),
    receipt: Path | None = typer.Option(None, metavar="FILE", help="Write the receipt, as JSON, to FILE."),
    json: str | None = JSON,
) -> None:
    """Generate pictures under a policy, and say what every guard did.

    \b
    conceptguard generate --policy demo --prompt "a man smoking a cigarette, noto style"
    conceptguard generate --guard spm:beer --guard sld:wine,champagne --prompt "a glass of wine, noto style"
    conceptguard generate --policy school.yaml --model ./my-sd --prompt "a dog" --prompt "a cat" --out pictures
    conceptguard generate --policy school --prompts prompts.txt --compare --out pictures
    conceptguard generate --policy school --prompts prompts.txt --on ray --out pictures
    conceptguard generate --policy none --prompt "a red apple, noto style" --out apple.png

    With --prompts, a prompt that a guard refuses is a line of the report, and the others are drawn; the page,
    OUT/report.html, needs nothing beside it.
    """
    from .draw import Asked, draw_all, draw_job, files
    from .guarding import policy_of
    from .loading import drawing_under
    from .on_ray import On, pool
    from .output import report, write_json
    from .progress import progress
    from .prompts import asked_for

    begin = time.perf_counter()
    asks = asked_for(prompt, prompts)
    # The policy is read before the model is loaded: a typo costs no waiting.
    rules = policy_of(policy, guard)
    if compare and rules is None:
        raise Usage("--compare shows pictures with and without a policy: give one, or leave it out")
    asks = [ask if ask.negative_prompt else ask._replace(negative_prompt=negative_prompt) for ask in asks]
    places = files(out, asks, images_per_prompt, seed)
    if html is None and prompts and not out.suffix:
        html = out / "report.html"
    if on and not prompts:
        raise Usage("--on is for many prompts: give a file of them, --prompts FILE")
    load = partial(drawing_under, model, device, dtype, variant=variant, config=config)
    asked = Asked(steps, guidance, images_per_prompt, width, height)
    at_once = batch if prompts else len(asks)
    calls = math.ceil(len(asks) / at_once) * (2 if compare else 1)
    with pool(On(on, workers, gpus), load, draw_job) as at, progress("denoising", calls * steps) as tick:
        rows, receipts = draw_all(at, rules, asks, places, asked, at_once, bool(prompts), compare, tick)
    more: dict[str, Any] = {"model": model, "policy": rules.name if rules else None}
    if len(receipts) < 2:
        more["receipt"] = receipts[0].to_dict() if receipts else None
    else:
        more["receipts"] = [one.to_dict() for one in receipts]
    if receipt:
        write_json({key: more[key] for key in ("receipts",) if key in more} or more.get("receipt") or {}, str(receipt))
    if html:
        from ..measuring.page import write_page

        write_page(html, rows, model, rules, at.device, {"steps": steps, "guidance": guidance})
        more["html"] = str(html)
    shown = [{key: value for key, value in row.items() if key != "negative_prompt"} for row in rows]
    report("generate", shown, time.perf_counter() - begin, json, at.device, **more)
    if json != "-":
        for one in receipts if len(receipts) < 2 else []:
            print(one)
        if rules is None:
            print("no policy: nothing was guarded")
        if html:
            print(f"{html} shows it, and can be sent as it is")
