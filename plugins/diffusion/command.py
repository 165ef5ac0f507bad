"""One guard on its own, from the command line: pictures under a policy of that guard, one a seed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conceptguard.cli.options import Usage
from conceptguard.errors import ConceptGuardError
from conceptguard.policy import Policy
from conceptguard.receipt import Receipt
from conceptguard.sessions.session import Session


def draw(
    pipe: Any, policy: Policy, prompt: str, seeds: list[int], steps: int, guidance: float,
    prepare: Callable[[Session], None] = lambda session: None, **options: Any,
) -> tuple[list[Any], Session, Receipt]:  # fmt: skip
    """(PIL pictures, the session, detached again, its receipt). prepare: what is done with the session before drawing.

    options: go to the pipeline
    """
    import torch

    from conceptguard.cli.progress import progress
    from conceptguard.sessions.attach import attach

    pipe.set_progress_bar_config(disable=True)
    with attach(pipe, policy) as session, progress("denoising", steps) as tick:
        prepare(session)

        def on_step_end(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            tick(1)
            return session.on_step_end(pipe, index, timestep, values)

        try:
            images = pipe(
                [prompt] * len(seeds), num_inference_steps=steps, guidance_scale=guidance,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                callback_on_step_end=on_step_end, **options,
            ).images  # fmt: skip
        except ValueError as error:
            raise ConceptGuardError(f"{type(pipe).__name__} refuses: {error}") from error
        return list(images), session, session.receipt


def files(out: Path, name: str, seeds: list[int]) -> list[Path]:
    """Where the pictures go: one .png, or a folder. Raises Usage for several pictures in one file."""
    if out.suffix.lower() == ".png":
        if len(seeds) > 1:
            raise Usage(f"--out {out} is one file, and this makes {len(seeds)} pictures: give a folder")
        return [out]
    if out.suffix and not out.is_dir():
        raise Usage(f"--out {out}: pictures are written as .png, or give a folder")
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "picture"
    return [out / f"{slug}-{seed}.png" for seed in seeds]


def save(images: list[Any], paths: list[Path]) -> None:
    """As PNG."""
    for image, path in zip(images, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
