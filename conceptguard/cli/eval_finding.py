"""``conceptguard eval --suite finding``: what finders find of what was planted, beside two that know nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import typer

FINDING = "finding"
CONTROLS = ("pca", "random_directions")
COLUMNS = ["finder", "recall", "whole", "styles", "precision", "iou", "rank", "there", "where", "how_much", "named",
           "shown", "seconds", "passes"]  # fmt: skip


def eval_finding(
    finders: Sequence[str], settings: dict[str, Any], n: int, seeds: int, steps: int, device: str | None, check: bool,
    json: str | None,
) -> None:  # fmt: skip
    """Judge finders on planted pictures, ``seeds`` times n, each time drawn anew; print the table of means, exit with 1
    where ``check`` asks for it and one misses the bars, or a control does not."""
    from ..errors import PolicyError
    from ..finding.encoders import EMBEDDED, load_encoder, words_for
    from ..finding.judged import BARS, Bench, judge, together
    from ..finding.planted import PLANTED, plant, sprites_drawn
    from ..making.settings import read_options
    from ..plugins import offers
    from .loading import drawing
    from .output import report
    from .progress import progress

    begin = time.perf_counter()
    known = {name: one for name, one in offers("finders").items() if getattr(one, "looks_at", "model") == "pictures"}
    for name in finders:
        if name not in known:
            raise PolicyError(f"no finder '{name}' that looks at pictures: there are {', '.join(known)}")
    finding = [name for name, one in known.items() if getattr(one, "judged", True)]
    chosen = list(dict.fromkeys([*(finders or finding), *CONTROLS]))
    read = {name: read_options(known[name].FindSettings, settings if name in finders else {}, f"finding with {name}")
            for name in chosen}  # fmt: skip
    pipe = drawing("emoji-sd", device)
    encoder, words = load_encoder(), words_for(EMBEDDED)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for number in range(seeds):
        with progress("pictures", sprites_drawn()) as tick:
            bench = Bench(plant(pipe, n, "judge", steps, tick, number), encoder, words)
        with progress("taken away again", len(PLANTED)) as tick:
            for name in chosen:
                found[name].append(judge(known[name], bench, read[name], tick))
    rows = []
    for name in chosen:
        row = together(found[name])
        rows.append({**row, "control": name in CONTROLS, "passes": all(row[key] >= bar for key, bar in BARS.items())})
    made = {"suite": FINDING, "n": n, "seeds": seeds, "steps": steps, "set": settings, "bars": BARS}
    report("eval", rows, time.perf_counter() - begin, json, str(pipe.device), columns=COLUMNS, **made)
    if json != "-":
        print(f"\nbars: {', '.join(f'{key} at least {bar}' for key, bar in BARS.items())}; controls must miss them")
    if check and not all(row["passes"] != row["control"] for row in rows):
        raise typer.Exit(1)
