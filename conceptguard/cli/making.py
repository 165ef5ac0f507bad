"""What ``conceptguard make`` does for one artifact, in whichever process: makes it, lists it, and tries it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .loading import is_text
from .table import wrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..measuring.trial import Trial
    from ..registry import Artifact


class Making(NamedTuple):
    """What all artifacts of a command share. options: of ``Method.make``; settings: the same, checked; tries, judge: of
    the pictures or answers at the end.
    """

    method: str
    model: str
    variant: str | None
    out: Path
    options: dict[str, Any]
    settings: Any
    tries: int
    judge: str | None


class Made(NamedTuple):
    """row: for the report; told: lines for whoever reads"""

    row: dict[str, Any]
    told: list[str]


class Loaded:
    """A model of any kind, and its host."""

    def __init__(self, model: str, device: str | None, **options: Any):
        from ..plugins import host_for
        from .loading import either

        self.model = either(model, device, **options)
        self.host = host_for(self.model)
        self.device = str(self.host.device_dtype()[0])

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *error: object) -> None:
        """Making leaves nothing at a model."""


def make_one(job: Making, own: Loaded, concept: Any, tick: Callable[[int], None]) -> Made:
    """One artifact. concept: what ``Method.make`` takes, a list where several become one."""
    from .. import plugins
    from ..making.maker import place
    from ..making.preview import preview_file
    from ..registry import default_registry

    begin, method = time.perf_counter(), plugins.method(job.method)
    if job.options["preview"]:
        whole = method.wanted(concept, job.options.get("name", ""))[0]
        shows = preview_file(place(method, own.host, whole, job.out))
        print(f"conceptguard: {shows} shows how it goes", file=sys.stderr)
    artifact = method.make(own.host, concept, job.out, **job.options)
    default_registry().add(artifact, job.out)  # lists it there, so that the folder can be served as it is
    seconds = time.perf_counter() - begin
    plain = getattr(own.host, "generates", "") == "tensors"
    trial = _tried(own.model, job, artifact) if job.tries and not plain else None
    sheet = job.out / f"{artifact.ref.replace('/', '-')}.png" if trial and trial.sheet else None
    if trial and trial.sheet and sheet:
        trial.sheet.save(sheet, optimize=True)
    row = {
        "method": job.method, "concept": artifact.manifest.concept.name, "model": job.model, "ref": artifact.ref,
        "folder": str(artifact.folder), "make_seconds": round(seconds, 3), "bytes": artifact.size,
        "picture": str(sheet or ""), "trial": trial.figures if trial else None,
        "manifest": artifact.manifest.model_dump(),
    }  # fmt: skip
    told = [f"{artifact.ref}: {artifact.size:,} bytes in {artifact.folder}, made in {seconds:.1f} s"]
    also = artifact.manifest.made.get("also")
    if also:
        told.append(wrapped(f"also taken for it, though nobody named it: {', '.join(also)}"))
    if trial:
        told.append(wrapped(trial.told))
    if sheet:
        told.append(f"{sheet} shows it")
    return Made(row, [*told, _use(job, own, artifact, plain)])


def _use(job: Making, own: Loaded, artifact: Artifact, plain: bool) -> str:
    if plain:
        which = f"{job.model} --variant {job.variant}" if job.variant else job.model
        suites = {"matching": "graph", "mapped": "gan"}
        suite = next((one for part, one in suites.items() if hasattr(own.model, part)), "classifier")
        return f"use it: conceptguard eval --suite {suite} --model {which} --guard {job.method}:{artifact.folder}"
    command = "say" if is_text(own.model) else "generate"
    command += " --picture FILE" if is_text(own.model) and hasattr(own.model.tokenizer, "image_processor") else ""
    return f"use it: conceptguard {command} --model {job.model} --guard {job.method}:{artifact.folder} --prompt TEXT"


def _tried(model: Any, job: Making, artifact: Artifact) -> Trial | None:
    """What the artifact does to a few pictures or answers; None where there is nothing to ask."""
    from ..measuring.trial import try_on_pictures, try_on_text
    from ..policy_file import load_policy
    from .progress import progress

    several = artifact.manifest.made.get("concepts") or [artifact.manifest.concept.model_dump()]
    names, prompts = [one["name"] for one in several], [one["prompts"][0] for one in several]
    if len(several) == 1:
        prompts = several[0]["prompts"]
    rules = load_policy({"name": job.method, "guards": [{"method": job.method, "artifact": str(artifact.folder)}]})
    n = job.tries
    if is_text(model):
        forget, retain = ([one.prompt for one in getattr(job.settings, name, [])] for name in ("forget", "retain"))
        with progress("answers", 4 * n) as tick:
            return try_on_text(model, rules, forget, retain, n, tick=tick) if forget else None
    with progress("pictures", 6 * n) as tick:
        kept = job.options["preserve"]
        return try_on_pictures(model, job.model, rules, names, prompts, kept, n, judge=job.judge, tick=tick)
