"""What `ssd` and `damp` forget of emoji-classifier when a sample of the examples stands for all, and what that saves.

Three draws of each size, beside all examples. Judged by models that were trained without, as eval does. Times are of a
request to a model that nothing was prepared for.

    python -m tools.sampled --json FILE
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conceptguard import host_for, load_model
from conceptguard.benchmarks.forgetting import empty_cache
from conceptguard.measuring.classifier.run import Bench
from conceptguard.plugins import method as method_named

from .rows import parser_of, write_rows

METHODS, CONCEPTS, DRAWS = ("ssd", "damp"), ("skull", "weapons"), 3
SIZES = (0, 768, 512, 384, 256)
COLUMNS = ("forget", "retain", "test", "gap", "make_seconds", "ratio")


def main() -> None:
    write_rows("sampled", rows(Bench(load_model("emoji-classifier"))), parser_of(__doc__).parse_args().json)


def rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """One for each method, size, forget set and draw."""
    for method in METHODS:
        for size in SIZES:
            for concept in CONCEPTS:
                for seed in range(DRAWS if size else 1):
                    named = {"method": method, "concept": concept, "sample": size, "seed": seed}
                    yield named | _row(bench, method, concept, {"sample": size, "seed": seed})


def _row(bench: Bench, method: str, concept: str, settings: dict[str, int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, empty_cache():
        began = time.process_time()
        method_named(method).prepare(host_for(bench.net), progress=False, **settings)
        prepared = time.process_time() - began
        row = bench.made(method, concept, Path(folder), dict(settings))
    seconds = prepared + row["make_seconds"]
    return {key: row[key] for key in COLUMNS} | {
        "make_seconds": round(seconds, 3), "ratio": round(seconds / bench.retrain_seconds, 4)
    }  # fmt: skip


if __name__ == "__main__":
    main()
