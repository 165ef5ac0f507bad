"""What ``conceptguard generate`` draws: prompts in parts, under a policy and, to compare, without one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .options import Usage
from .prompts import Ask

if TYPE_CHECKING:
    from ..policy import Policy
    from ..receipt import Receipt

Tick = Callable[[int], None]


class Asked(NamedTuple):
    """How everything is drawn. each: pictures of a prompt."""

    steps: int
    guidance: float
    each: int = 1
    width: int | None = None
    height: int | None = None


class Place(NamedTuple):
    """Where a picture goes, and its seed."""

    file: Path
    seed: int


def files(out: Path, asks: Sequence[Ask], each: int, seed: int) -> list[list[Place]]:
    """Where the pictures of every prompt go. Raises Usage for several pictures in one file."""
    total = len(asks) * each
    if out.suffix.lower() == ".png":
        if total > 1:
            raise Usage(f"--out {out} is one file, and this makes {total} pictures: give a folder")
    elif out.suffix and not out.is_dir():
        raise Usage(f"--out {out}: pictures are written as .png, or give a folder")
    places, taken = [], set()
    for i, ask in enumerate(asks):
        first = seed + i * each if ask.seed is None else ask.seed
        name = re.sub(r"[^a-z0-9]+", "-", ask.prompt.lower()).strip("-")[:60] or "picture"
        own = []
        for number in range(first, first + each):
            file = out if out.suffix.lower() == ".png" else out / f"{name}-{number}.png"
            while file in taken:  # the same prompt and seed twice
                file = file.with_stem(f"{file.stem}-again")
            taken.add(file)
            own.append(Place(file, number))
        places.append(own)
    return places


def draw_all(
    pipe: Any, policy: Policy | None, asks: Sequence[Ask], places: Sequence[Sequence[Place]], asked: Asked, batch: int,
    on: bool, compare: bool,
) -> tuple[list[dict[str, Any]], list[Receipt]]:  # fmt: skip
    """A row for every picture, saved where it belongs, and a receipt for every call of the pipeline.

    on: go on where a guard refuses a prompt, which is then said in its row. Raises Refused otherwise.
    """
    from ..sessions.attach import attach
    from .progress import progress

    parts = [range(i, min(i + batch, len(asks))) for i in range(0, len(asks), batch)]
    rows: list[dict[str, Any]] = []
    receipts: list[Receipt] = []
    before: dict[int, list[Any]] = {}
    with progress("denoising", len(parts) * asked.steps * (2 if compare and policy else 1)) as tick:
        if compare and policy:
            for part in parts:
                drawn = _draw(pipe, None, [asks[i] for i in part], [places[i] for i in part], asked, tick)
                before |= {i: drawn[n * asked.each : (n + 1) * asked.each] for n, i in enumerate(part)}
        with attach(pipe, policy) if policy else nullcontext() as guard:
            for part in parts:
                for own, drawn, why, record in _bearing(pipe, guard, asks, places, asked, part, on, tick):
                    receipts += [record] if record else []
                    for n, i in enumerate(own):
                        images = drawn[n * asked.each : (n + 1) * asked.each]
                        rows += _rows(asks[i], places[i], images, before.get(i), why, record, n * asked.each)
    return rows, receipts


def _bearing(
    pipe: Any, guard: Any, asks: Sequence[Ask], places: Sequence[Sequence[Place]], asked: Asked, part: Sequence[int],
    on: bool, tick: Tick,
) -> Any:  # fmt: skip
    """(which prompts, their pictures, why there are none, receipt); a part that is refused is drawn one by one."""
    from ..errors import Refused

    try:
        drawn = _draw(pipe, guard, [asks[i] for i in part], [places[i] for i in part], asked, tick)
        yield part, drawn, "", guard.receipt if guard else None
    except Refused as refused:
        if not on:
            raise
        if len(part) == 1:
            yield part, [], str(refused), guard.receipt
            return
        for i in part:
            yield from _bearing(pipe, guard, asks, places, asked, [i], on, lambda n: None)


def _draw(
    pipe: Any, guard: Any, asks: Sequence[Ask], places: Sequence[Sequence[Place]], asked: Asked, tick: Tick
) -> list[Any]:
    """PIL pictures, those of one prompt beside each other. Raises ConceptGuardError for what the pipeline refuses."""
    import torch

    from ..errors import ConceptGuardError

    def on_step_end(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        tick(1)
        return guard.on_step_end(pipe, index, timestep, values) if guard else values

    negative = [ask.negative_prompt or "" for ask in asks]
    options = {"negative_prompt": negative if any(negative) else None, "width": asked.width, "height": asked.height}
    try:
        return list(pipe(
            [ask.prompt for ask in asks],
            num_inference_steps=asked.steps,
            guidance_scale=asked.guidance,
            num_images_per_prompt=asked.each,
            generator=[torch.Generator("cpu").manual_seed(place.seed) for own in places for place in own],
            callback_on_step_end=on_step_end,
            **{key: value for key, value in options.items() if value is not None},
        ).images)  # fmt: skip
    except ValueError as error:
        raise ConceptGuardError(f"{type(pipe).__name__} refuses: {error}") from error


def _rows(
    ask: Ask, places: Sequence[Place], images: Sequence[Any], before: Sequence[Any] | None, why: str, record: Any,
    first: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """The pictures of one prompt, saved. first: the place of its first picture among those of the call."""
    from ..measuring.told import acts

    rows = []
    for n, place in enumerate(places):
        row: dict[str, Any] = {"file": "", "prompt": ask.prompt, "seed": place.seed}
        if images:
            row["file"] = _save(images[n], place.file)
            row |= acts(record, ask.prompt, first + n)
        if before:
            row["without"] = _save(before[n], place.file.with_stem(f"{place.file.stem}-without"))
            row["identical"] = bool(images) and images[n].tobytes() == before[n].tobytes()
        if why:
            row |= {"guards": "", "refused": why}
        rows.append(row | ({"negative_prompt": ask.negative_prompt} if ask.negative_prompt else {}))
    return rows


def _save(image: Any, file: Path) -> str:
    from ..errors import ConceptGuardError

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    except OSError as error:
        raise ConceptGuardError(f"{file}: cannot be written ({error.strerror or error}): give another --out") from error
    return str(file)
