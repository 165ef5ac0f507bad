"""``conceptguard eval --suite gan``: what a GAN's generator forgot, read by judges that no maker sees."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ..policy import Policy

GAN, DEFAULT = "gan", "emoji-gan"
COLUMNS = [
    "method", "concept", "erased_before", "erased_after", "others_before", "others_after", "edited_before",
    "edited_after", "second_erased_after", "second_others_after", "degree", "shift", "make_seconds", "passes",
]  # fmt: skip


def eval_gan(
    model: str, methods: Sequence[str], policies: Sequence[Policy], concepts: str | None, settings: dict[str, Any],
    device: str | None, check: bool, json: str | None,
) -> None:  # fmt: skip
    """Make what the methods make of every concept, judge it with policies and controls, and print the table. With
    ``check`` exit with 1 where a guard misses the bar."""
    from ..errors import PolicyError
    from ..hosts.load import load_model
    from .devices import pick_device
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    net = load_model(DEFAULT if model == "emoji-sd" else model).to(pick_device(device))
    if not hasattr(net, "object_names"):
        raise PolicyError(f"{model} is no generator whose objects a judge knows: give emoji-gan, or its folder")
    from ..measuring.gan.run import CONCEPTS, Bench

    bench = Bench(net)
    wanted = CONCEPTS if concepts is None else list(bench.places) if concepts == "all" else concepts.split(",")
    if strange := [name for name in wanted if name not in bench.places]:
        raise PolicyError(f"the generator has no '{strange[0]}': it draws {', '.join(bench.places)}")
    found: list[dict[str, Any]] = []
    total = len(wanted) * (3 + len(methods) + len(policies))
    with progress("concepts", total) as tick, tempfile.TemporaryDirectory() as folder:
        for concept in wanted:
            found += bench.controls(concept)
            tick(3)
            for method in methods:
                found.append(bench.made(method, concept, Path(folder), settings))
                tick(1)
            for policy in policies:
                found.append(bench.guarded(policy, concept))
                tick(1)
    report("eval", found, time.perf_counter() - begin, json, str(pick_device(device)), columns=COLUMNS, suite=GAN,
           set=settings)  # fmt: skip
    if check and not all(row["passes"] for row in found if row["method"] not in {"none", "renamed", "noise"}):
        raise typer.Exit(1)
