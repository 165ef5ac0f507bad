"""Attaching many artifacts, timed beside another build in turn; and the collector, which rests meanwhile."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from conceptguard.benchmarks import attaching
from conceptguard.cli import run
from conceptguard.runtime.uncollected import uncollected


def test_both_builds_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = []

    def once(python: str, folder: Path, model: str, count: int, clock: str) -> dict[str, Any]:
        ran.append(python)
        ours = python == sys.executable
        return {"first": 1.0 if ours else 4.0, "again": 0.2 if ours else 2.0, "kept_mb": None, "version": "0"}

    monkeypatch.setattr(attaching, "once", once)
    row = attaching.measure(tmp_path, "emoji-sd", 100, 2, "other", "cpu", lambda n: None)
    assert ran == [sys.executable, "other"] * 2
    assert row["ratio_peer"] == 0.25 and row["ratio_peer_again"] == 0.1 and row["each_ms"] == 2.0
    assert row["kept_mb"] is None and row["peer"] == "0"
    assert "ratio_peer" not in attaching.measure(tmp_path, "emoji-sd", 100, 1, None, "cpu", lambda n: None)


@pytest.mark.slow
def test_the_command_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "attach", "--n", "3", "--json", "-"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    (row,) = told["rows"]
    assert told["command"] == "bench attach" and row["n"] == 3
    assert 0 < row["again_seconds"] <= row["attach_seconds"]
    assert run(["bench", "attach", "--n", "0"]) != 0


def test_the_collector_rests_until_the_last_one_leaves() -> None:
    assert gc.isenabled()
    with pytest.raises(ValueError, match="on the way"), uncollected():
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ValueError("on the way")
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()  # whoever turned it off keeps it off
    finally:
        gc.enable()
