"""The slow run of generated cases: a process that dies is no case that held, and what held is not run again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import fuzz

IDS = ["tests/fuzz/a.py::test_one[3]", "tests/fuzz/a.py::test_two[2]"]


def ending(monkeypatch: pytest.MonkeyPatch, told: list[dict[str, Any]], code: str) -> None:
    """In pytest's place: a program that tells these rows, and ends as ``code`` says."""
    lines = "".join(json.dumps(row) + "\n" for row in told)
    program = f"import os; open(os.environ['CONCEPTGUARD_FUZZED'], 'w').write({lines!r}); {code}"
    monkeypatch.setattr(fuzz, "_PYTEST", (sys.executable, "-c", program))


def row(held: bool | None, cases: int = 3) -> dict[str, Any]:
    return {"test": "test_one", "cases": cases, "seconds": 0.1, "held": held}


@pytest.mark.parametrize(
    ("told", "code", "held", "cases"),
    [
        ([row(None, 1), row(True)], "", True, 3), ([row(False, 2)], "exit(1)", False, 2), ([], "exit(2)", False, 0),
        ([row(None, 1)], "os._exit(9)", False, 1), ([row(None, 1)], "", False, 1), ([row(True)], "exit(1)", False, 3),
    ],
    ids=["held", "failed", "not begun", "died", "ended early", "failed afterwards"],
)  # fmt: skip
def test_what_a_process_comes_to(monkeypatch: pytest.MonkeyPatch, told: Any, code: str, held: bool, cases: int) -> None:
    ending(monkeypatch, told, code)
    counted: list[int] = []
    found = fuzz.try_out(IDS[0], counted.append)
    assert (found["test"], found["held"], found["cases"], counted[-1]) == ("test_one", held, cases, cases)


def test_a_line_that_is_not_whole_is_not_read(tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.write_text(json.dumps(row(None, 1)) + '\n{"test": "te')
    assert fuzz._last(told) == row(None, 1)


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, asked, good = tmp_path / "out" / "kept.jsonl", list[str](), {IDS[0]}

    def try_out(test: str, count: Any) -> dict[str, Any]:
        asked.append(test)
        return {"test": test.split("::")[1].split("[")[0], "cases": 2, "seconds": 0.1, "held": test in good}

    monkeypatch.setattr(fuzz, "try_out", try_out)
    assert [one["held"] for one in fuzz.run(IDS, kept)] == [True, False]
    good.add(IDS[1])
    assert [one["held"] for one in fuzz.run(IDS, kept)] == [True, True]
    assert asked == [*IDS, IDS[1]], "what held is not run again, what failed is"
    assert [one["held"] for one in fuzz.run(IDS, kept)] == [True, True] and len(asked) == 3
