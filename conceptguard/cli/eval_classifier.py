"""``conceptguard eval --suite classifier``: what a classifier forgot, beside models that never saw it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .eval_bench import judged, load_net, sets_of, verify

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
    from .devices import pick_device
    from .output import report

    begin = time.perf_counter()
    net = load_net(model, DEFAULT, "folder", "no classifier that comes with examples", device, variant=variant)
    from ..measuring.classifier.run import Bench

    bench = Bench(net)
    found = judged(bench, sets_of(bench, concepts), methods, policies, settings, "forget sets")
    report("eval", found, time.perf_counter() - begin, json, str(pick_device(device)), columns=COLUMNS,
           suite=CLASSIFIER, net=bench.kind, retrain_seconds=round(bench.retrain_seconds, 2), set=settings)  # fmt: skip
    if json != "-":
        print(f"re_: models trained without it, {bench.seeds} seeds; training one takes {bench.retrain_seconds:.0f} s")
    if check:
        verify(found, ("none", "relabel", "retrained"))
