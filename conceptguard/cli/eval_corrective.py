"""``conceptguard eval --suite classifier --measure corrective``: what is mended when part of the bad data is known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .eval_bench import judged, load_net, sets_of, verify

if TYPE_CHECKING:
    from ..policy import Policy

CORRECTIVE, DEFAULT = "corrective", "emoji-classifier"
COLUMNS = ["method", "concept", "poisoned", "lured", "retain", "test", "make_seconds", "ratio", "bytes", "passes"]


def eval_corrective(
    model: str, methods: Sequence[str], policies: Sequence[Policy], concepts: str | None, settings: dict[str, Any],
    variant: str | None, device: str | None, check: bool, json: str | None,
) -> None:  # fmt: skip
    """Train a poisoned classifier, have the methods forget what is known to be bad, and print the table. With ``check``
    exit with 1 where a guard misses the bars."""
    from .devices import pick_device
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    net = load_net(model, DEFAULT, "folder", "no classifier that comes with examples", device, variant=variant)
    from ..measuring.classifier.corrective import POISONED, Bench

    with progress("training", Bench.steps(net)) as tick:
        bench = Bench(net, tick)
    wanted = sets_of(bench, concepts)
    found = judged(bench, wanted, methods, policies, settings, "rows")
    report("eval", found, time.perf_counter() - begin, json, str(pick_device(device)), columns=COLUMNS,
           suite="classifier", measure=CORRECTIVE, net=bench.kind, of=POISONED,
           train_seconds=round(bench.train_seconds, 2), set=settings)  # fmt: skip
    if json != "-":
        print(f"concept: how many of the {POISONED} bad examples are known; poisoned: named rightly in spite of the "
              "corner; lured: named as what it stands for")  # fmt: skip
    if check:
        verify(found, ("none", "retrained without the known", "retrained without all"))
