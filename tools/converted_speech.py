"""What guards cost a converted model: ``bench speech`` on what onnxruntime-genai's own builder makes.

    python -m tools.converted_speech

A row for every model and size of batch: the embedded model, and one that is large enough for a token to cost more than
the loop around it. Wants the extra ``onnx``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from conceptguard import load_model
from conceptguard.benchmarks.speech import beside_bare

from .larger import LARGER, folder_of
from .rows import parser_of, write_rows

BATCHES = (1, 8)
SIZES = {"authors-lm": (64, 20), LARGER: (32, 8)}  # tokens of an answer, rounds


def converted(source: str, folder: Path) -> str:
    """A model of transformers, as a folder of onnxruntime-genai in fp32. Raises SystemExit where its builder fails."""
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", source, "-o", str(folder), "-p", "fp32",
               "-e", "cpu", "-c", str(folder / "cache")]  # fmt: skip
    done = subprocess.run(builder, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
                          timeout=800)  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return str(folder)


def measured(phrases: int) -> Iterator[dict[str, Any]]:
    """The rows of ``beside_bare``, each with its ``model``."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        for name, (tokens, rounds) in SIZES.items():
            pair = load_model(converted(folder_of(name, here), here / f"{name}-onnx"))
            with tqdm(total=len(BATCHES) * (rounds + 1), desc=name, leave=False) as bar:
                for row in beside_bare(pair, phrases, BATCHES, tokens, rounds, time.perf_counter, bar.update):
                    yield {"model": name, **row}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--phrases", type=int, default=10_000, help="in the bank")
    given = parser.parse_args()
    write_rows("speech", measured(given.phrases), given.json)


if __name__ == "__main__":
    main()
