"""How many generated cases were tried, of what, and whether what the tests claim held: the slow run of tests/fuzz.

python -m tools.fuzz --json FILE             # a hundred thousand new cases
python -m tools.fuzz --quick --json FILE     # those of every run of the tests, the same ones each time
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from conceptguard import __version__

ROOT = Path(__file__).parents[1]


def report(quick: bool, show: bool = True) -> dict[str, Any]:
    """Runs the tests in a process of their own -> a row for every one of them, also where one failed."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told"
        told.touch()
        subprocess.run(
            [sys.executable, "-m", "pytest", "-m", "not slow" if quick else "slow", "tests/fuzz"], cwd=ROOT,
            env={**os.environ, "CONCEPTGUARD_FUZZED": str(told)}, stdout=None if show else subprocess.DEVNULL,
        )  # fmt: skip
        rows = [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()]
    seconds = round(sum(row["seconds"] for row in rows), 1)  # of computing
    return {"command": "fuzz", "version": __version__, "device": "cpu", "seconds": seconds, "rows": rows}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", required=True, type=Path, help="where the report goes")
    parser.add_argument("--quick", action="store_true", help="the few thousand cases of every run of the tests")
    options = parser.parse_args()
    found = report(options.quick)
    options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(not found["rows"] or any(not row["held"] for row in found["rows"]))


if __name__ == "__main__":
    main()
