"""What ``conceptguard generate`` draws: prompts in parts, under a policy and, to compare, without one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .options import Usage
from .prompts import Ask

if TYPE_CHECKING:
    from ..measuring.parts import Drawing
    from ..policy import Policy
    from ..receipt import Receipt
    from .on_ray import Pool

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


class Job(NamedTuple):
    """A call of the pipeline. part: which prompts; on: go on where a guard refuses one."""

    policy: Policy | None
    part: Sequence[int]
    asks: Sequence[Ask]
    places: Sequence[Sequence[Place]]
    asked: Asked
    on: bool


class Drawn(NamedTuple):
    """part: which prompts; images: PIL, those of one prompt beside each other; why: there are none"""

    part: Sequence[int]
    images: list[Any]
    why: str
    record: Receipt | None


def draw_all(
    at: Pool, policy: Policy | None, asks: Sequence[Ask], places: Sequence[Sequence[Place]], asked: Asked, batch: int,
    on: bool, compare: bool, tick: Tick,
) -> tuple[list[dict[str, Any]], list[Receipt]]:  # fmt: skip
    """A row for every picture, saved where it belongs as soon as it is there, and a receipt for every call of the
    pipeline.

    at: what does ``draw_job``; on: go on where a guard refuses a prompt, which is then said in its row. Raises Refused
    otherwise.
    """
    parts = [range(i, min(i + batch, len(asks))) for i in range(0, len(asks), batch)]

    def jobs(policy: Policy | None) -> list[Job]:
        return [Job(policy, part, [asks[i] for i in part], [places[i] for i in part], asked, on) for part in parts]

    before: dict[int, list[Any]] = {}
    if compare and policy:
        for _, found in at.each(jobs(None), tick, _steps):
            for one in found:
                before |= {i: one.images[n * asked.each : (n + 1) * asked.each] for n, i in enumerate(one.part)}
    rows: dict[int, list[dict[str, Any]]] = {}
    receipts: dict[int, list[Receipt]] = {}
    for number, found in at.each(jobs(policy), tick, _steps):
        receipts[number] = [one.record for one in found if one.record]
        for one in found:
            for n, i in enumerate(one.part):
                images = one.images[n * asked.each : (n + 1) * asked.each]
                rows[i] = _rows(asks[i], places[i], images, before.get(i), one.why, one.record, n * asked.each)
    return [row for i in sorted(rows) for row in rows[i]], [one for i in sorted(receipts) for one in receipts[i]]


def _steps(job: Job) -> int:
    return job.asked.steps


def draw_job(own: Drawing, job: Job, tick: Tick) -> list[Drawn]:
    """One call, or where a prompt of several is refused, one for each of them."""
    from ..errors import Refused

    guard = own.under(job.policy)
    try:
        drawn = _draw(own.pipe, guard, job.asks, job.places, job.asked, tick)
        return [Drawn(job.part, drawn, "", guard.receipt if guard else None)]
    except Refused as refused:
        if not job.on:
            raise
        if len(job.part) == 1:
            return [Drawn(job.part, [], str(refused), guard.receipt)]
        alone = (job._replace(part=[i], asks=[a], places=[p]) for i, a, p in zip(job.part, job.asks, job.places))
        return [drawn for one in alone for drawn in draw_job(own, one, lambda n: None)]


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
