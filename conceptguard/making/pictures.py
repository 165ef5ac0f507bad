"""A handful of pictures to learn from: those that somebody gives, or the model's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import PolicyError
from ..files.pictures import SUFFIXES, open_picture
from ..generation.conditioning import pick

if TYPE_CHECKING:
    from ..generation.conditioning import Encoded
    from ..protocols import Denoiser

DRAWING_STEPS, DRAWING_GUIDANCE = 15, 5.0


def picture_files(given: str | Sequence[str]) -> list[Path]:
    """Files of pictures, those of folders in the order of their names. Raises PolicyError where there are none."""
    found: list[Path] = []
    for name in [given] if isinstance(given, str) else given:
        path = Path(name).expanduser()
        inside = sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside or not all(one.is_file() for one in inside):
            what = "a folder without pictures" if path.is_dir() else "no such file"
            raise PolicyError(f"pictures: {path}: {what}: give PNG or JPEG files of the concept, or a folder of them")
        found += inside
    return found


def marks(files: Sequence[Path]) -> list[str]:
    """Which very pictures they were, for the manifest."""
    return [hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files]


def read(files: Sequence[Path], size: tuple[int, int]) -> Tensor:
    """Pictures [n, 3, height, width] in [0, 1], scaled to fill the size and cut to its middle."""
    import numpy as np
    from PIL import Image, ImageOps

    height, width = size
    fitted = [ImageOps.fit(open_picture(f), (width, height), Image.Resampling.LANCZOS) for f in files]
    return torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in fitted]).float() / 255


@torch.no_grad()
def drawn(
    denoiser: Denoiser, concept: Encoded, nothing: Encoded, count: int, random: torch.Generator,
    opened: Callable[[Sequence[float]], None] = lambda gates: None,
) -> Tensor:  # fmt: skip
    """Latents [count, ...] of pictures that the model itself draws of the concept. concept: some texts that ask for
    it; nothing: the empty one; opened: told before calls how far each of their rows asks for it, 0 or 1"""
    rows = [i % len(concept.ids) for i in range(count)]
    noise = torch.randn(count, *denoiser.shape, generator=random)
    asked = pick(concept, rows)
    opened([0.0] * count + [1.0] * count)
    last = denoiser.trajectories(noise, asked, pick(nothing, [0] * count), DRAWING_STEPS, DRAWING_GUIDANCE)[-1]
    timestep = denoiser.timesteps(DRAWING_STEPS)[-1]
    opened([1.0] * count)
    said = denoiser(last, torch.full((count,), timestep), asked)
    return denoiser.noise_levels.parts(last, said, timestep)[0]
