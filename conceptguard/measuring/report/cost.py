"""What a policy costs: the same picture bare and guarded in turn, so that whatever else runs falls on both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

from ...errors import GuardError, Refused
from ...policy import Policy
from ...sessions.attach import attach
from ..samples import Recipe, Tick, make
from ..suite import Sample


def cost(
    pipe: Any, policy: Policy, samples: Mapping[str, Sample], recipe: Recipe, repeats: int = 3,
    tick: Tick = lambda n: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each prompt, under the name that it has: seconds of a picture, and the median over rounds of guarded
    over bare. On a CPU seconds are of the processor. ``tick`` hears two for each prompt and round.

    A prompt that the policy refuses has no ratio.
    """
    clock = time.process_time if pipe.device.type == "cpu" else time.perf_counter
    bare: dict[str, list[float]] = {name: [] for name in samples}
    guarded: dict[str, list[float]] = {name: [] for name in samples}
    attaching, refused = [], set()
    for warm in (True, *[False] * repeats):
        for name, sample in samples.items():
            seconds = _timed(pipe, sample, recipe, clock)
            begin = clock()
            with attach(pipe, policy):
                attached = clock() - begin
                try:
                    slower = _timed(pipe, sample, recipe, clock)
                except (Refused, GuardError):
                    refused.add(name)
                    slower = 0.0
            if not warm:
                bare[name].append(seconds)
                guarded[name].append(slower)
                attaching.append(attached)
                tick(2)
    found = []
    for name, sample in samples.items():
        ratio = statistics.median(b / a for a, b in zip(bare[name], guarded[name]))
        found.append({
            "prompt": sample.prompt, "what": name, "bare_seconds": round(statistics.median(bare[name]), 3),
            "ratio_bare": None if name in refused else round(ratio, 3), "repeats": repeats,
            "attach_seconds": round(statistics.median(attaching), 3),
        })  # fmt: skip
    return found


def _timed(pipe: Any, sample: Sample, recipe: Recipe, clock: Any) -> float:
    begin = clock()
    make(pipe, [sample], recipe)
    return float(clock() - begin)
