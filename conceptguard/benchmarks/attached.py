"""One process's part of ``attaching``: a policy is attached, first and again. Public names only: it runs under other
builds as well."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from typing import Any


def resident() -> float | None:
    """Megabytes of memory that this process has now; None where the system does not say."""
    try:
        with open("/proc/self/statm") as told:
            return int(told.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, ValueError):
        return None


def main(model: str, names: list[str], again: int, clock: str) -> dict[str, Any]:
    """Seconds of the first attachment and of the fastest of some more, and how much memory the first one keeps.

    Two guards are attached before: what a process loads once, be it of torch's or ours, is not counted.
    """
    import torch

    import conceptguard

    torch.set_num_threads(1)
    now = time.process_time if clock == "cpu" else time.perf_counter
    pipe = conceptguard.load_model(model)
    guards = [{"method": "spm", "artifact": f"{model}/spm/{name}"} for name in names]
    conceptguard.attach(pipe, {"name": "warm", "guards": guards[:2]}).detach()
    seconds, kept = [], None
    for _ in range(1 + again):
        before, begin = resident(), now()
        session = conceptguard.attach(pipe, {"name": "bench", "guards": guards})
        seconds.append(now() - begin)
        if kept is None and before is not None:
            kept = (resident() or 0.0) - before
        session.detach()
        del session
    return {"first": seconds[0], "again": min(seconds[1:]), "kept_mb": kept, "version": conceptguard.__version__}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    count, base, times, reading = sys.argv[1:]
    told = main(base, [f"c{i}" for i in range(int(count))], int(times), reading)
    print(json.dumps(told), flush=True)
