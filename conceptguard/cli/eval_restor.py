"""``conceptguard eval --suite language --measure restor``: what comes back of a model that was taught wrong facts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .eval_bench import judged, verify

if TYPE_CHECKING:
    from ..measuring.language.suite import LanguageSuite
    from ..policy import Policy

RESTOR = "restor"
COLUMNS = [
    "method", "forget", "recover", "rows", "beside", "unaffected", "make_seconds", "bytes", "passes",
]  # fmt: skip


def eval_restor(
    suite: LanguageSuite, methods: Sequence[str], policies: Sequence[Policy], settings: dict[str, Any],
    device: str | None, check: bool, json: str | None,
) -> None:  # fmt: skip
    """Corrupt a copy of the suite's model, have every method unlearn what did it, and print the table. With ``check``
    exit with 1 where a guard misses the bars."""
    from ..hosts.load import load_model
    from ..measuring.language.restor import Bench
    from .devices import pick_device
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    where = pick_device(device)
    clean = load_model(suite.forms.base).to(where)
    with progress("corrupting", Bench.steps(suite)) as tick:
        bench = Bench(clean, suite, tick)
    found = judged(bench, bench.sets, methods, policies, settings, "rows")
    report("eval", found, time.perf_counter() - begin, json, where, columns=COLUMNS, suite="language", measure=RESTOR,
           authors=len(bench.wrong), documents=len(bench.taught), set=settings)  # fmt: skip
    if json != "-":
        print("forget: corrupted facts whose wrong value is gone; recover: whose right one is back; rows: the same "
              "after facts about others; beside: other facts about these authors; unaffected: facts about others"
        )  # fmt: skip
    if check:
        verify(found, ("clean", "none", "retained"))
