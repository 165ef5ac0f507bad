"""No wiring of the core's nodes gets a flagged picture out of an enforcing server: graphs are made up, not chosen."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from core import HERE, Unavailable, core, environment
from server import install

RULES = "name: house\non_violation: black\nguards:\n  - {method: probe, artifact: emoji-sd/probe/beer}\n"


def wired(folder: Path, seed: int, alone: int, chains: int) -> dict[str, Any]:
    """What ``leaks.py`` found."""
    try:
        command = [
            str(environment()),
            str(HERE / "leaks.py"),
            str(core()),
            str(folder),
            *map(str, (seed, alone, chains)),
        ]
    except Unavailable as why:
        pytest.skip(f"no ComfyUI core here: {why}")
    install(folder)
    for place in ("input", "output", "temp"):
        (folder / place).mkdir()
    (folder / "house.yaml").write_text(RULES)
    around = {**os.environ, "OMP_NUM_THREADS": "1", "CONCEPTGUARD_ENFORCE": str(folder / "house.yaml"),
              "CONCEPTGUARD_AUDIT": str(folder / "audit.jsonl")}  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=around, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print({name: value for name, value in found.items() if name != "leaks"})
    return found


def check(found: dict[str, Any]) -> None:
    assert not found["leaks"], found["leaks"][:3]
    assert found["unlooked"], "this test sees nothing"
    assert found["ran"] > found["graphs"] / 10 and found["refused"] > found["graphs"] / 10


def test_a_few_wirings(tmp_path: Path) -> None:
    check(wired(tmp_path, 5, 12, 6))


@pytest.mark.timeout(7200)
@pytest.mark.slow  # half an hour: every node that takes what a picture can hide in, and chains of them
def test_every_node_alone_and_chains(tmp_path: Path) -> None:
    found = wired(tmp_path, 6, 100_000, 1000)
    check(found)
    assert found["nodes"] > 200
