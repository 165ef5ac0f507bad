"""What attaching a policy of many artifacts takes, from their files to guards at work, beside another build.

Every figure is of a process of its own, ours and the other build's in turn: the first attachment of a process reads
every manifest and every concept, a later one what may have changed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ConceptGuardError
from ..formats import to_kohya
from ..registry import write_artifact
from ..runtime.lowrank import LayerIndex
from .subjects import membrane

Row = dict[str, Any]
AGAIN = 2  # attachments after the first one, of which the fastest counts


def write(folder: Path, pipe: Any, model: str, fingerprint: str, count: int, tick: Callable[[int], object]) -> None:
    """A registry of random membranes on all layers that the shipped ones are beside, each about words of its own."""
    shapes = LayerIndex({"unet": pipe.unet}).shapes()
    for i in range(count):
        tensors, metadata = to_kohya(membrane(shapes, i))
        prompts = [f"concept {i}", f"someone with a concept {i}"]
        fields = {
            "name": f"c{i}", "method": "spm", "concept": {"name": f"concept {i}", "prompts": prompts},
            "base": {"family": model, "fingerprint": fingerprint}, "gate": {"floor": 0.95, "full": 0.97, "unread": 0.5},
        }  # fmt: skip
        write_artifact(folder / model / "spm" / f"c{i}", fields, tensors, metadata=metadata)
        tick(1)


def once(python: str, folder: Path, model: str, count: int, clock: str) -> Row:
    """One process: see ``attached``. Raises ConceptGuardError with its last words where it fails."""
    source = (Path(__file__).with_name("attached.py")).read_text(encoding="utf-8")
    ran = subprocess.run(
        [python, "-c", source, str(count), model, str(AGAIN), clock],
        capture_output=True, text=True, cwd=folder,
        env={**os.environ, "CONCEPTGUARD_REGISTRIES": str(folder), "PYTHONPATH": ""},
    )  # fmt: skip
    if ran.returncode:
        why = ran.stderr.strip().splitlines()[-1:] or ["no word"]
        raise ConceptGuardError(f"{python} did not attach {count:,} guards: {why[0][:300]}")
    return dict(json.loads(ran.stdout.strip().splitlines()[-1]))


def measure(
    folder: Path, model: str, count: int, repeats: int, peer: str | None, clock: str, tick: Callable[[int], object]
) -> Row:
    """The row of ``count`` guards: medians of ``repeats`` processes. ratio_peer, ratio_peer_again: our time over the
    other build's, of the first attachment and of a later one."""
    ours: list[Row] = []
    theirs: list[Row] = []
    for _ in range(repeats):
        ours.append(once(sys.executable, folder, model, count, clock))
        tick(1)
        if peer:
            theirs.append(once(peer, folder, model, count, clock))
            tick(1)
    row = {"n": count, "attach_seconds": _median(ours, "first"), "again_seconds": _median(ours, "again")}
    row |= {"each_ms": round(1000 * row["again_seconds"] / count, 3), "kept_mb": _median(ours, "kept_mb", 0)}
    if theirs:
        first, again = _median(theirs, "first"), _median(theirs, "again")
        row |= {
            "peer": theirs[0]["version"], "attach_seconds_peer": first, "again_seconds_peer": again,
            "kept_mb_peer": _median(theirs, "kept_mb", 0), "ratio_peer": round(row["attach_seconds"] / first, 4),
            "ratio_peer_again": round(row["again_seconds"] / again, 4),
        }  # fmt: skip
    return row


def _median(rows: list[Row], key: str, digits: int = 3) -> Any:
    known = [row[key] for row in rows if row[key] is not None]
    return round(statistics.median(known), digits) if known else None


def prepared(model: str) -> tuple[Any, str]:
    """The pipeline whose layers the membranes are for, and its fingerprint."""
    from ..hosts.load import load_model
    from ..plugins import host_for

    pipe = load_model(model)
    return pipe, host_for(pipe).fingerprint()
