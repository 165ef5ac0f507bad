"""``conceptguard eval --suite graph``: what a net over a graph forgot, beside one that never saw it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ..policy import Policy

GRAPH, DEFAULT = "graph", "emoji-graph"
COLUMNS = [
    "method", "concept", "edges", "deleted", "kept", "before", "retained", "make_seconds", "ratio", "passes",
]  # fmt: skip


def eval_graph(
    model: str, methods: Sequence[str], policies: Sequence[Policy], concepts: str | None, settings: dict[str, Any],
    device: str | None, check: bool, json: str | None,
) -> None:  # fmt: skip
    """Make what the methods make of every forget set, judge it with policies and controls, and print the table. With
    ``check`` exit with 1 where a guard misses the bar."""
    from ..errors import PolicyError
    from ..hosts.load import load_model
    from .devices import pick_device
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    net = load_model(DEFAULT if model == "emoji-sd" else model).to(pick_device(device))
    if not hasattr(net, "matching"):
        raise PolicyError(f"{model} is no net over a graph that comes with edges: give emoji-graph, or its folder")
    from ..measuring.graph.run import Bench

    bench = Bench(net)
    wanted = [name for name in bench.sets if concepts in (None, "all") or name in concepts.split(",")]
    if not wanted:
        raise PolicyError(f"no forget set '{concepts}' is judged: there are {', '.join(bench.sets)}")
    found: list[dict[str, Any]] = []
    total = len(wanted) * (3 + len(methods) + len(policies))
    with progress("forget sets", total) as tick, tempfile.TemporaryDirectory() as folder:
        for concept in wanted:
            found += bench.controls(concept)
            tick(3)
            for method in methods:
                found.append(bench.made(method, concept, Path(folder), settings))
                tick(1)
            for policy in policies:
                found.append(bench.guarded(policy, concept))
                tick(1)
    report("eval", found, time.perf_counter() - begin, json, str(pick_device(device)), columns=COLUMNS, suite=GRAPH,
           set=settings)  # fmt: skip
    if check and not all(row["passes"] for row in found if row["method"] not in {"retrained", "none", "deny"}):
        raise typer.Exit(1)
