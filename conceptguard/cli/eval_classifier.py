"""``conceptguard eval --suite classifier``: what a classifier forgot, beside models that never saw it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ..policy import Policy

CLASSIFIER, DEFAULT = "classifier", "emoji-classifier"
COLUMNS = [
    "method", "concept", "forget", "re_forget", "retain", "re_retain", "test", "re_test", "gap", "membership", "probe",
    "re_probe", "margins", "make_seconds", "ratio", "passes",
]  # fmt: skip


def eval_classifier(
    model: str, methods: Sequence[str], policies: Sequence[Policy], concepts: str | None, settings: dict[str, Any],
    variant: str | None, device: str | None, check: bool, json: str | None,
) -> None:  # fmt: skip
    """Make what the methods make of every forget set, judge it with policies and controls, and print the table. With
    ``check`` exit with 1 where a guard misses the bar, or a control does not."""
    from ..errors import PolicyError
    from ..hosts.load import load_model
    from .devices import pick_device
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    net = load_model(DEFAULT if model == "emoji-sd" else model, variant=variant).to(pick_device(device))
    if not hasattr(net, "folder"):
        raise PolicyError(f"{model} is no classifier that comes with examples: give emoji-classifier, or its folder")
    from ..measuring.classifier.run import Bench

    bench = Bench(net)
    wanted = [name for name in bench.sets if concepts in (None, "all") or name in concepts.split(",")]
    if not wanted:
        raise PolicyError(f"no forget set '{concepts}' is judged: there are {', '.join(bench.sets)}")
    found: list[dict[str, Any]] = []
    with progress("forget sets", len(wanted) * (2 + len(methods) + len(policies))) as tick:
        for row in _rows(bench, wanted, methods, policies, settings):
            found.append(row)
            tick(1)
    report("eval", found, time.perf_counter() - begin, json, str(pick_device(device)), columns=COLUMNS,
           suite=CLASSIFIER, net=bench.kind, retrain_seconds=round(bench.retrain_seconds, 2), set=settings)  # fmt: skip
    if json != "-":
        print(f"re_: models trained without it, {bench.seeds} seeds; training one takes {bench.retrain_seconds:.0f} s")
    controls = {"none", "relabel", "retrained"}
    if check and not all(row["passes"] for row in found if row["method"] not in controls):
        raise typer.Exit(1)


def _rows(
    bench: Any, wanted: Sequence[str], methods: Sequence[str], policies: Sequence[Policy], settings: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        for concept in wanted:
            yield bench.retrained(concept)
            yield bench.bare(concept)
            yield bench.relabelled(concept)
            for method in methods:
                yield bench.made(method, concept, Path(folder), settings)
            for policy in policies:
                yield bench.guarded(policy, concept)
