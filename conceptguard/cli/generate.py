"""``conceptguard generate``: pictures from any diffusers model, under a policy."""

from __future__ import annotations

import re
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import typer

from .complete import policies_or_none
from .options import DEVICE, DTYPE, GUIDANCE, JSON, MODEL, OUT, SEED, STEPS


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("generate")(generate)


def generate(
    prompt: list[str] = typer.Option(..., "--prompt", "-p", metavar="TEXT", help="What to draw; may be repeated."),
    policy: str | None = typer.Option(
        None,
        metavar="POLICY",
        autocompletion=policies_or_none,
        help="A policy file or a shipped policy's name; 'none' says that you want no guard.",
    ),
    model: str = MODEL,
    negative_prompt: str | None = typer.Option(None, metavar="TEXT", help="What to steer away from."),
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seed: int = SEED,
    images_per_prompt: int = typer.Option(1, min=1, help="Pictures of each prompt."),
    width: int | None = typer.Option(None, help="Pixels; default: the model's own."),
    height: int | None = typer.Option(None, help="Pixels; default: the model's own."),
    device: str | None = DEVICE,
    dtype: str = DTYPE,
    out: Path = OUT,
    receipt: Path | None = typer.Option(None, metavar="FILE", help="Write the receipt, as JSON, to FILE."),
    json: str | None = JSON,
) -> None:
    """Generate pictures under a policy, and say what every guard did.

    \b
    conceptguard generate --policy demo --prompt "a man smoking a cigarette, noto style"
    conceptguard generate --policy school.yaml --model ./my-sd --prompt "a dog" --prompt "a cat" --out pictures
    conceptguard generate --policy none --prompt "a red apple, noto style" --out apple.png
    """
    from ..errors import ConceptGuardError, PolicyError
    from ..hosts.load import load_model
    from ..policy_file import load_policy
    from .devices import pick_device, pick_dtype
    from .output import report, write_json

    begin = time.perf_counter()
    if policy is None:
        raise PolicyError("no policy: give --policy FILE or a shipped policy's name, or --policy none for no guard")
    files = _files(out, prompt, images_per_prompt, seed)
    # The policy is read before the model is loaded: a typo costs no waiting.
    loaded = None if policy == "none" else load_policy(policy)
    place, kind = pick_device(device), pick_dtype(dtype)
    pipe = load_model(model, torch_dtype=kind).to(place)
    options = {"negative_prompt": [negative_prompt] * len(prompt) if negative_prompt else None, "width": width,
               "height": height, "num_images_per_prompt": images_per_prompt}  # fmt: skip
    try:
        images, record = _draw(pipe, loaded, list(prompt), len(files), steps, guidance, seed, options)
    except ValueError as error:
        raise ConceptGuardError(f"{type(pipe).__name__} refuses: {error}") from error
    rows = []
    for i, (file, image) in enumerate(zip(files, images)):
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
        text = prompt[i // images_per_prompt]
        rows.append({"file": str(file), "prompt": text, "seed": seed + i, **_acts(record, text, i)})
    receipt_fields = record.to_dict() if record else None
    if receipt:
        write_json(receipt_fields or {}, str(receipt))
    report("generate", rows, time.perf_counter() - begin, json, str(pipe.device), model=model, receipt=receipt_fields)
    if json != "-":
        print(record if record else "no policy: nothing was guarded")


def _files(out: Path, prompts: list[str], each: int, seed: int) -> list[Path]:
    """Where every picture goes. Raises ConceptGuardError for several pictures in one file."""
    from ..errors import ConceptGuardError

    total = len(prompts) * each
    if out.suffix.lower() == ".png":
        if total > 1:
            raise ConceptGuardError(f"--out {out} is one file, and this makes {total} pictures: give a folder")
        return [out]
    if out.suffix and not out.is_dir():
        raise ConceptGuardError(f"--out {out}: pictures are written as .png, or give a folder")
    names = [re.sub(r"[^a-z0-9]+", "-", p.lower()).strip("-")[:60] or "picture" for p in prompts for _ in range(each)]
    return [out / f"{name}-{seed + i}.png" for i, name in enumerate(names)]


def _draw(
    pipe: Any, policy: Any, prompts: list[str], n: int, steps: int, guidance: float, seed: int, options: dict[str, Any]
) -> tuple[list[Any], Any]:
    """The pictures, and the receipt where there is a policy."""
    import torch

    from ..sessions.attach import attach
    from .progress import progress

    pipe.set_progress_bar_config(disable=True)
    with attach(pipe, policy) if policy else nullcontext() as guard, progress("denoising", steps) as tick:

        def on_step_end(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            tick(1)
            return guard.on_step_end(pipe, index, timestep, values) if guard else values

        images = pipe(
            prompts,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator("cpu").manual_seed(seed + i) for i in range(n)],
            callback_on_step_end=on_step_end,
            **{k: v for k, v in options.items() if v is not None},
        ).images
        return list(images), guard.receipt if guard else None


def _acts(record: Any, text: str, image: int) -> dict[str, Any]:
    """Which guards were open on a prompt, and what was found in its picture."""
    if record is None:
        return {"guards": ""}
    opened = {
        act.guard: gate
        for act in record.opened
        for row, gate in zip(record.rows, act.gates)
        if gate and row.text == text and row.branch == "conditional"
    }
    found = [f"{v.label} ({record.action})" for v in record.verdicts if v.image == image and v.flagged]
    return {"guards": ", ".join(f"{guard} {gate:.2f}" for guard, gate in opened.items()), "found": ", ".join(found)}
