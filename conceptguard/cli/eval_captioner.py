"""``conceptguard eval --suite captioner``: what a model that sees no longer names, still names, and tells unnamed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .eval_bench import verify

if TYPE_CHECKING:
    from ..policy import Policy

CAPTIONER, DEFAULT = "captioner", "emoji-captioner"
CONCEPTS = ("skull", "pistol", "dog", "beer", "mono")
COLUMNS = [
    "method", "concept", "erased_before", "erased_after", "unnamed_before", "unnamed_after",
    "told_before", "told_after", "neighbours_before", "neighbours_after", "others_before", "others_after", "identical",
    "make_seconds", "bytes", "passes",
]  # fmt: skip


def eval_captioner(
    model: str, methods: Sequence[str], policies: Sequence[Policy], concepts: str | None, settings: dict[str, Any],
    n: int, device: str | None, check: bool, json: str | None,
) -> None:  # fmt: skip
    """Make what the methods make of every concept, judge it with policies and controls, and print the table. With
    ``check`` exit with 1 where a guard misses the bars."""
    from ..hosts.load import load_model
    from ..measuring.captioner.run import Bench
    from .devices import pick_device
    from .options import MODEL
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    bench = Bench(load_model(DEFAULT if model == MODEL.default else model).to(pick_device(device)), n)
    wanted = CONCEPTS if concepts in (None, "all", "some") else concepts.split(",")  # type: ignore[union-attr]
    plans = _plans(methods, settings)
    total = sum(sum(map(len, bench.asked(one).values())) for one in wanted) * (1 + len(plans) + len(policies))
    found: list[dict[str, Any]] = []
    with progress("answers", total) as bench.tick, tempfile.TemporaryDirectory() as folder:
        for row in _rows(bench, wanted, plans, policies, Path(folder)):
            found.append(row)
    report("eval", found, time.perf_counter() - begin, json, str(pick_device(device)), columns=COLUMNS, suite=CAPTIONER,
           set=settings)  # fmt: skip
    if json != "-":
        print("erased: named by a picture; unnamed: what is known of it, told without its name; told: the same asked "
              "by name, without a picture")  # fmt: skip
    if check:
        verify(found, {"none", *(row["method"] for row in found if "random" in row["method"])})


def _plans(methods: Sequence[str], settings: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Methods with their settings, each followed by the control that it brings."""
    from .. import plugins
    from ..measuring.captioner.run import RANDOM

    found = []
    for name in methods:
        found.append((name, settings))
        if RANDOM in plugins.method(name).MakeSettings.model_fields:
            found.append((name, {**settings, RANDOM: True}))
    return found


def _rows(
    bench: Any, wanted: Sequence[str], plans: Sequence[tuple[str, dict[str, Any]]], policies: Sequence[Policy],
    out: Path,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    for concept in wanted:
        yield bench.bare(concept)
        for method, settings in plans:
            yield bench.made(method, concept, out, settings)
        for policy in policies:
            yield bench.guarded(policy, concept)
