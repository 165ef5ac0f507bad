"""A large registry's index and its catalogue, whose writers are killed or have no room: all of one version, always."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from paths import TESTS

Rows = Callable[[str, int], list[dict[str, Any]]]
HOURS = 2 * 3600  # seconds: where every step is tried on a machine that others use, minutes are not enough


@pytest.fixture
def rows(tmp_path: Path, record_property: Callable[[str, object], None]) -> Rows:
    """What was seen after each fault, once nothing was left over and the next writer or reader had all of it."""

    def run(what: str, stride: int) -> list[dict[str, Any]]:
        command = [sys.executable, str(Path(__file__).with_name("interrupted_index.py")), str(tmp_path), what]
        variables = {**os.environ, "CONCEPTGUARD_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(TESTS)}
        done = subprocess.run([*command, str(stride)], capture_output=True, text=True, timeout=HOURS, env=variables)
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        record_property("faults", sum(row["fault"] for row in found))
        assert not [row for row in found if row["left"] or not row["then"] or row["sees"] not in ("old", "new")]
        return found

    return run


def soon_and_slow(what: str, stride: int, *others: str) -> Any:
    """One of them now and then, and all of them at every step in the slow run."""
    marks = [pytest.mark.slow, pytest.mark.timeout(HOURS)]
    slow = [pytest.param(one, 1, marks=marks) for one in (what, *others)]
    return pytest.mark.parametrize(("what", "stride"), [(what, stride), *slow])


@soon_and_slow("more shards", 16, "one shard", "to shards", "from shards")
def test_killed_while_the_index_changes(what: str, stride: int, rows: Rows) -> None:
    found = rows(what, stride)
    assert (found[0]["sees"], found[-1]["sees"], found[-1]["fault"]) == ("old", "new", False)
    assert sum(one["sees"] != other["sees"] for one, other in pairwise(found)) == 1
    assert all(row["files"] <= 40 for row in found), "what two versions name, and what one killed writer left"


@soon_and_slow("next catalogue", 40, "catalogue")
def test_killed_while_a_catalogue_is_made(what: str, stride: int, rows: Rows) -> None:
    found = rows(what, stride)
    assert len(found) > 3 and all(row["sees"] == "new" for row in found)
    # Killed between the two, the one before is there as well, until the next is made.
    assert all(row["files"] in (1, 2) for row in found) and found[-1]["files"] == 1


@pytest.mark.parametrize("stride", [49999, pytest.param(997, marks=pytest.mark.slow)])
def test_no_room_for_index_and_catalogue(stride: int, rows: Rows) -> None:
    """No file may grow beyond so many bytes: an error where the index is written, and a list without a catalogue."""
    found = rows("full", stride)
    assert (found[0]["sees"], found[-1]["sees"]) == ("old", "new")
    assert (found[0]["files"], found[-1]["files"]) == (0, 1), "from nothing kept to enough room"
    assert sum(one["sees"] != other["sees"] for one, other in pairwise(found)) == 1
