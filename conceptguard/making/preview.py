"""Pictures of a training while it runs: what the concept's prompts draw by now, and what was to stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..files.atomic import write_bytes
from .pictures import drawn
from .templates import encode_all

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..generation.conditioning import Encoded
    from ..protocols import Denoiser
    from .task import Report, Task

EACH = 3  # prompts of the concept, and as many of what is to stay
LABEL = 64  # pixels before a row


def preview_file(folder: Path) -> Path:
    """Where the pictures of a training are, beside the registry's folders. folder: of the artifact."""
    return folder.parents[2] / f"{'-'.join(folder.parts[-3:])}-preview.png"


def previews(
    task: Task, denoiser: Denoiser, opened: Callable[[Sequence[float]], None] = lambda gates: None,
    encode: Callable[[Sequence[str]], Encoded] | None = None,
) -> list[Report]:  # fmt: skip
    """What shows a training every ``Task.preview`` steps, as one picture whose rows are steps; nothing where that is 0.

    Prompts of the concept come first, then what is to stay, all drawn from the same noise with what was learnt so far
    wide open: a gate, which is measured last, will shut it for the latter. Nothing that the training draws is touched,
    and one that is taken up begins a new picture. Before anything is trained: what is attached must be shut.

    opened: what is learnt beside the denoiser, for each row of its next call; encode: texts by text encoders that learn
    """
    if not task.preview:
        return []
    texts, nothing = [*task.concept.prompts[:EACH], *task.preserve[:EACH]], task.host.encode([""])
    encode = encode or partial(encode_all, task.host)
    rows: list[tuple[int, Tensor]] = []

    @torch.no_grad()
    def show(step: int, value: float) -> None:
        if (step + 1) % task.preview:
            return
        random = torch.Generator().manual_seed(task.seed)
        latents = drawn(denoiser, encode(texts), nothing, len(texts), random, opened)
        rows.append((step + 1, denoiser.pictures(latents)))
        file = preview_file(task.folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, _png(_sheet(texts, rows)))

    return [show]


def _sheet(texts: Sequence[str], rows: Sequence[tuple[int, Tensor]]) -> Image:
    from PIL import Image, ImageDraw

    height, width = rows[0][1].shape[2:]
    sheet = Image.new("RGB", (LABEL + len(texts) * width, 16 + len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(texts):
        draw.text((LABEL + column * width + 3, 2), text[: width // 6], fill="black")
    for y, (step, pictures) in enumerate(rows):
        draw.text((3, 16 + y * height + 3), f"step {step}", fill="black")
        levels = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for column, picture in enumerate(levels):
            sheet.paste(Image.fromarray(picture), (LABEL + column * width, 16 + y * height))
    return sheet


def _png(sheet: Image) -> bytes:
    from io import BytesIO

    file = BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
