"""Requests to forget, one after another: what ``gs_lora`` forgot and kept after each, and when one is withdrawn.

    python -m tools.stream --json FILE

Four requests of five classes each, on the small vision transformer of emoji-classifier; each row a policy.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from conceptguard import attach, load_model, make
from conceptguard.cli.output import report
from conceptguard.cli.progress import progress
from conceptguard.measuring.classifier.run import Bench

MODEL = "emoji-classifier"
SIZE = 5
COLUMNS = ["requests", "forgotten", "withdrawn", "kept", "kept_test", "re_test", "harmonic", "blocks", "make_seconds"]


def rows(bench: Bench, out: Path, tick: Any = lambda n: None) -> list[dict[str, Any]]:
    """After each request; then, all of them made, with each one in turn withdrawn."""
    classes = bench.examples.forget["requests"]
    requests = [classes[i : i + SIZE] for i in range(0, len(classes), SIZE)]
    made: list[Any] = []
    found = []
    for number, own in enumerate(requests):
        began = time.process_time()
        about = {"name": f"request {number + 1}", "prompts": own}
        made.append(make(bench.net, "gs_lora", about, out, after=[str(one.folder) for one in made]))
        seconds = time.process_time() - began
        blocks = made[-1].manifest.made["blocks"]
        told = ", ".join(f"{size:.1f}" for size in blocks.values())
        found.append({**judged(bench, requests, made, None), "blocks": told, "make_seconds": round(seconds, 2)})
        tick(1)
    for number in range(len(requests)):
        found.append(judged(bench, requests, made, number))
        tick(1)
    return found


def judged(bench: Bench, requests: list[list[str]], made: list[Any], without: int | None) -> dict[str, Any]:
    """A policy of the requests that were made, but for one: shares named rightly.

    forgotten: of their classes; withdrawn: of the one left out; kept, kept_test: of training and test examples of
    classes that no request is about; harmonic: of what was forgotten and what is kept, as in the paper
    """
    examples = bench.examples
    acting = [i for i in range(len(made)) if i != without]
    guards = [{"method": "gs_lora", "artifact": str(made[i].folder)} for i in acting]
    judging, references = bench.judged("requests")
    with attach(bench.net, {"name": "requests", "guards": guards}):
        named = judging.measured(bench.net).named

    def right(classes: list[str]) -> float:
        return judging.right(named, examples.matching(classes))

    kept = judging.right(named, judging.retain)
    forgotten = right([name for i in acting for name in requests[i]])
    retrained = sum(judging.right(one, judging.kept) for one in references.named) / len(references.named)
    drop = 1 - forgotten
    return {
        "requests": len(acting), "forgotten": round(forgotten, 4),
        "withdrawn": None if without is None else round(right(requests[without]), 4),
        "kept": round(kept, 4), "kept_test": round(judging.right(named, judging.kept), 4),
        "re_test": round(retrained, 4), "harmonic": round(2 * drop * kept / (drop + kept), 4) if drop + kept else 0.0,
    }  # fmt: skip


def main() -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", default=None, help="a file, or - for standard output")
    given = parser.parse_args()
    began = time.perf_counter()
    bench = Bench(load_model(MODEL, variant="vit"))
    with tempfile.TemporaryDirectory() as folder, progress("requests", 8) as tick:
        found = rows(bench, Path(folder), tick)
    report("requests", found, time.perf_counter() - began, given.json, columns=COLUMNS)


if __name__ == "__main__":
    main()
