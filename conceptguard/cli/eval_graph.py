"""``conceptguard eval --suite graph``: what a net over a graph forgot, beside one that never saw it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .eval_bench import judged, load_net, sets_of, verify

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
    from .devices import pick_device
    from .output import report

    begin = time.perf_counter()
    net = load_net(model, DEFAULT, "matching", "no net over a graph that comes with edges", device)
    from ..measuring.graph.run import Bench

    bench = Bench(net)
    found = judged(bench, sets_of(bench, concepts), methods, policies, settings, "forget sets")
    report("eval", found, time.perf_counter() - begin, json, str(pick_device(device)), columns=COLUMNS, suite=GRAPH,
           set=settings)  # fmt: skip
    if check:
        verify(found, ("retrained", "none", "deny"))
