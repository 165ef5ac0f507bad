"""How many generated cases were tried, of what, and whether what the tests claim held: the slow run of tests/fuzz.

    python -m tools.fuzz --json FILE             # a hundred thousand new cases
    python -m tools.fuzz --quick --json FILE     # those of every run of the tests, the same ones each time

Each test runs in a process of its own, one after the other, so that what one has piled up is gone for the next. What
held is written down as it comes, under out/: a run that was interrupted goes on where it was, unless code has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from conceptguard import __version__

ROOT = Path(__file__).parents[1]
TESTS = "tests/fuzz"
_PYTEST = (sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider")

Row = dict[str, Any]


def wanted(quick: bool) -> list[str]:
    """The ids of the tests. Raises SystemExit where they cannot be collected."""
    asked = [*_PYTEST, "--collect-only", "-q", "-m", "not slow" if quick else "slow", TESTS]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    # A test that generates nothing has no number of cases in its id, and runs with all the other tests alone.
    found = [line for line in done.stdout.splitlines() if re.search(r"::\w+\[\d+\]$", line)]
    if done.returncode or not found:
        raise SystemExit(f"{TESTS} cannot be collected:\n{done.stdout}{done.stderr}")
    return found


def cases_of(test: str) -> int:
    """How many cases the test of an id is to try."""
    return int(test.rpartition("[")[2].rstrip("]"))


def try_out(test: str, count: Callable[[int], Any] = lambda cases: None) -> Row:
    """Run one test in a process of its own -> its row, also where it failed or the process died.

    count: is told each time how many cases more were tried
    """
    with tempfile.TemporaryDirectory() as folder:
        told, log = Path(folder) / "told", Path(folder) / "log"
        told.touch()
        env = {**os.environ, "CONCEPTGUARD_FUZZED": str(told)}
        with log.open("wb") as output:
            process = subprocess.Popen([*_PYTEST, test], cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT)
            try:
                while process.poll() is None:
                    count(_last(told).get("cases", 0))
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(1)
            finally:
                process.kill()
                process.wait()
        row: Row = {"test": test.split("::")[1].split("[")[0], "cases": 0, "seconds": 0.0} | _last(told)
        row["held"] = process.returncode == 0 and row.get("held") is True
        if not row["held"]:
            sys.stderr.write(log.read_text(encoding="utf-8", errors="replace"))
        count(row["cases"])
        return row


def _last(told: Path) -> Row:
    """What a test told last: a line is whole once the next begins or it ends."""
    lines = told.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    return json.loads(lines[-1]) if lines else {}


def run(tests: list[str], kept: Path) -> list[Row]:
    """Run those tests that are not kept as held -> a row for every one of them."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    known = {row["test"]: row for row in _rows(kept) if row["held"]}
    rows = []
    with tqdm(total=sum(map(cases_of, tests)), unit=" cases", dynamic_ncols=True, smoothing=0.05) as bar:
        for test in tests:
            name, before = test.split("::")[1].split("[")[0], bar.n
            bar.set_description(name)

            def count(cases: int, before: int = before) -> None:
                bar.update(before + cases - bar.n)

            row = known.get(name) or try_out(test, count)
            count(row["cases"])
            rows.append(row)
            if name not in known:
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    return rows


def _rows(kept: Path) -> Iterator[Row]:
    if kept.is_file():
        for line in kept.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def code() -> str:
    """A hash of what is tried and of what tries it."""
    digest = hashlib.sha256()
    folders = (ROOT / "conceptguard", ROOT / "plugins", ROOT / TESTS)
    for path in sorted([*(ROOT / "tests").glob("*.py"), *(path for one in folders for path in one.rglob("*.py"))]):
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", required=True, type=Path, help="where the report goes")
    parser.add_argument("--quick", action="store_true", help="the few thousand cases of every run of the tests")
    options = parser.parse_args()
    kept = ROOT / "out" / f"fuzz-{'quick' if options.quick else 'slow'}-{code()}.jsonl"
    rows = run(wanted(options.quick), kept)
    seconds = round(sum(row["seconds"] for row in rows), 1)  # of computing
    found = {"command": "fuzz", "version": __version__, "device": "cpu", "seconds": seconds, "rows": rows}
    options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if any(not row["held"] for row in rows):
        sys.exit(f"a case broke a claim: see above; {kept} has what held")
    kept.unlink()


if __name__ == "__main__":
    main()
