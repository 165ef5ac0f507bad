"""Solving beside the published arithmetic: both solve the same, and the rows say which is timed."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from conceptguard.benchmarks import making
from conceptguard.cli import run


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of a size that is solved in no time."""
    monkeypatch.setattr(making, "WIDTH", 48)
    monkeypatch.setattr(making, "OUTPUTS", [20, 40])
    monkeypatch.setattr(making, "MOST_PEER", 4)


@pytest.mark.parametrize("method", list(making.METHODS))
def test_ours_and_the_authors_edit_the_same(method: str) -> None:
    row = making.measure(method, 4, "cpu", 1, time.perf_counter)
    assert row["difference"] < 1e-4
    assert row["ratio_peer"] > 0 and row["peer"] and row["concepts"] == 4


def test_another_edit_shows_in_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "LAMB", 0.5)
    ours = making.uce
    monkeypatch.setitem(
        making.METHODS, "uce", (lambda w, r: ours(w, r._replace(guide=r.guide / 2)), making.uce_official, "")
    )
    assert making.measure("uce", 4, "cpu", 1, time.perf_counter)["difference"] > 0.1


def test_the_command_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "make", "--concepts", "1,8", "--method", "uce", "--json", "-"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    few, many = told["rows"]
    assert told["command"] == "bench make" and few["ratio_peer"] > 0 and few["smaller"] > 1
    assert many["concepts"] == 8 and "ratio_peer" not in many
    assert run(["bench", "make", "--method", "spm"]) != 0
