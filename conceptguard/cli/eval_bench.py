"""What ``conceptguard eval`` does with a bench of a small model: load its net, judge all that was asked, and verify."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ..policy import Policy

Row = dict[str, Any]


def load_net(model: str, default: str, has: str, lacking: str, device: str | None, **options: Any) -> Any:
    """The net, the embedded one by default. Raises PolicyError for one without the attribute that such nets have."""
    from ..errors import PolicyError
    from ..hosts.load import load_model
    from .devices import pick_device

    net = load_model(default if model == "emoji-sd" else model, **options).to(pick_device(device))
    if not hasattr(net, has):
        raise PolicyError(f"{model} is {lacking}: give {default}, or its folder")
    return net


def sets_of(bench: Any, concepts: str | None) -> list[str]:
    """The forget sets that were asked for. Raises PolicyError where there are none of them."""
    from ..errors import PolicyError

    wanted = [name for name in bench.sets if concepts in (None, "all") or name in str(concepts).split(",")]
    if not wanted:
        raise PolicyError(f"no forget set '{concepts}' is judged: there are {', '.join(bench.sets)}")
    return wanted


def judged(
    bench: Any, wanted: Sequence[str], methods: Sequence[str], policies: Sequence[Policy], settings: dict[str, Any],
    label: str,
) -> list[Row]:  # fmt: skip
    """Of each concept the controls, what every method makes, and every policy, with a bar."""
    from .progress import progress

    found: list[Row] = []
    total = len(wanted) * (bench.CONTROLS + len(methods) + len(policies))
    with progress(label, total) as tick, tempfile.TemporaryDirectory() as folder:

        def add(rows: Iterable[Row]) -> None:
            for row in rows:
                found.append(row)
                tick(1)

        for concept in wanted:
            add(bench.controls(concept))
            add(bench.made(method, concept, Path(folder), settings) for method in methods)
            add(bench.guarded(policy, concept) for policy in policies)
    return found


def verify(rows: Sequence[Row], controls: Iterable[str]) -> None:
    """Exit with 1 where a guard misses the bar; controls may."""
    if not all(row["passes"] for row in rows if row["method"] not in controls):
        raise typer.Exit(1)
