"""What making a classifier forget costs, as a share of training it again in the same run."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import plugins
from ..errors import ConceptGuardError
from ..measuring.classifier.run import Bench
from ..registry.settings import MEANINGS

Row = dict[str, Any]


def measure(
    bench: Bench, methods: Sequence[str], classes: tuple[str, str], repeats: int,
    tick: Callable[[int], None] = lambda k: None,
) -> list[Row]:  # fmt: skip
    """A row for each method. ratio: seconds of its making over those of training the net again, an epoch of which is
    timed before each making, on the same processor. Nothing is in the cache then; ratio_again: of the second class, by
    a method that keeps there what it measured of all examples. Both are medians of ``repeats`` rounds, and each round
    has all methods in turn. A method that is for other nets has a row that says so, ``refused``.
    """
    found: dict[str, list[list[float]]] = {name: [] for name in methods}
    refused: dict[str, str] = {}
    for _ in range(repeats):
        for name in methods:
            if name in refused:
                continue
            training = bench.training_seconds()
            try:
                with tempfile.TemporaryDirectory() as folder, empty_cache() as cache:
                    times = [_make(bench, name, classes[0], Path(folder))]
                    if any(cache.rglob("*.piece")):
                        times.append(_make(bench, name, classes[1], Path(folder)))
            except ConceptGuardError as error:
                refused[name] = str(error)
            else:
                found[name].append([training, *times])
            tick(1)
    return [_row(bench.kind, name, found[name], refused) for name in methods]


@contextmanager
def empty_cache() -> Iterator[Path]:
    """Nothing that was measured before is found meanwhile."""
    named = MEANINGS["cache"][0]
    before = os.environ.get(named)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[named] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ[named]
            else:
                os.environ[named] = before


def _make(bench: Bench, method: str, concept: str, out: Path) -> float:
    begin = time.process_time()
    plugins.method(method).make(
        plugins.host_for(bench.net), {"name": concept, "prompts": [concept]}, out, progress=False
    )
    return time.process_time() - begin


def _row(net: str, method: str, rounds: Sequence[Sequence[float]], refused: dict[str, str]) -> Row:
    if method in refused:
        return {"net": net, "method": method, "refused": refused[method]}
    row: Row = {"net": net, "method": method}
    for key, place in (("", 1), ("_again", 2)):
        if all(len(one) > place for one in rounds):
            row[f"ratio{key}"] = round(statistics.median(one[place] / one[0] for one in rounds), 4)
            row[f"make_seconds{key}"] = round(statistics.median(one[place] for one in rounds), 3)
    return row | {"retrain_seconds": round(statistics.median(one[0] for one in rounds), 2)}
