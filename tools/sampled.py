"""What `ssd` and `damp` forget of emoji-classifier when a sample of the examples stands for all, and what that saves.

Three draws of each size, beside all examples. Judged by models that were trained without, as eval does.

    python -m tools.sampled --json FILE
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conceptguard import load_model
from conceptguard.measuring.classifier.run import Bench

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
                    with tempfile.TemporaryDirectory() as folder:  # nothing is kept from one to the next
                        row = bench.made(method, concept, Path(folder), {"sample": size, "seed": seed})
                    named = {"method": method, "concept": concept, "sample": size, "seed": seed}
                    yield named | {key: row[key] for key in COLUMNS}


if __name__ == "__main__":
    main()
