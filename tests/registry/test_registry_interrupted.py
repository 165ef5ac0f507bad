"""Writers that are killed, and disks that are full: what was there, or what was to be there, and nothing half."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from registry_tools import fields, make, membrane
from test_registry import same

from conceptguard.errors import ArtifactError, RegistryError
from conceptguard.registry import Registry, open_artifact, write_artifact
from conceptguard.registry.local import LocalSource
from conceptguard.registry.remote import RemoteSource
from conceptguard.registry.write import write_files

HERE = Path(__file__).parent
Told = Callable[[str, object], None]  # how many faults a test tried


def run(*words: Any) -> list[dict[str, Any]]:
    command = [sys.executable, str(HERE / "interrupted.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * 3600)  # the test has a limit
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A registry with version 1, which has a picture as well; version 2 and something else lie beside it."""
    (tmp_path / "old.png").write_bytes(b"a picture")
    said, pictures = {"prompts": "cigarette"}, [tmp_path / "old.png"]
    first = write_artifact(tmp_path / "first", fields(version="1"), membrane(1), metadata=said, pictures=pictures)
    LocalSource(tmp_path / "r").add(first)
    make(tmp_path / "second", "cigarette", 2, version="2")
    make(tmp_path / "other", "wine", 3)
    return tmp_path / "r"


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_while_another_version_is_added(registry: Path, stride: int, record_property: Told) -> None:
    rows = run(registry, registry.with_name("second"), stride)
    record_property("faults", len(rows) - 1)
    assert len(rows) * stride > 30, "killed at few points"
    for row in rows:
        assert row["loads"] in ("1 1", "2 2"), row
        # Whoever writes next finishes it: the same loads, the index says so, and nothing is left over.
        assert row["then"] in ("1 1", "2 2") and row["listed"] == row["then"][0] and not row["left"], row
    assert [rows[0]["loads"], rows[-1]["loads"]] == ["1 1", "2 2"]
    switches = [one["loads"] != other["loads"] for one, other in pairwise(rows)]
    assert sum(switches) == 1, "there is one moment from which on the new one counts"


@pytest.mark.slow
def test_killed_while_it_is_removed(registry: Path, record_property: Told) -> None:
    rows = run(registry, registry.with_name("second"), 1, "remove")
    record_property("faults", len(rows) - 1)
    assert {row["loads"] for row in rows} == {"1 1", "nothing"}
    assert all(row["then"] == row["listed"] == "nothing" or row["then"][0] == row["listed"] for row in rows)
    assert not any(row["left"] for row in rows)


def test_files_become_folders_and_folders_files(tmp_path: Path) -> None:
    one = {"a.json": b"1", "b.json/c.json": b"2"}
    other = {"a.json/c.json": b"3", "b.json": b"4"}
    for files in (one, other, one):
        write_files(tmp_path / "a", fields(), files)
        artifact = open_artifact(tmp_path / "a")
        assert {f.path: artifact.path(f.path).read_bytes() for f in artifact.manifest.files} == files
        inside = {p.relative_to(tmp_path / "a").as_posix() for p in (tmp_path / "a").rglob("*") if p.is_file()}
        assert inside == {*files, "artifact.yaml", ".lock"}
    with pytest.raises(ArtifactError, match=r"'a.json' is a file and a folder"):
        write_files(tmp_path / "a", fields(), {"a.json": b"", "a.json/b.json": b""})
    assert open_artifact(tmp_path / "a").verify() == 2


def test_a_link_as_the_next_version_leads_nowhere(tmp_path: Path) -> None:
    make(tmp_path / "a", seed=1)
    make(tmp_path / "elsewhere", seed=2)
    (tmp_path / "a" / ".next").symlink_to(tmp_path / "elsewhere")
    assert same(open_artifact(tmp_path / "a").tensors(), membrane(1))


FULL = """
import resource, signal, sys
from pathlib import Path
from conceptguard.cli import run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.parametrize("room", [700, *(pytest.param(one, marks=pytest.mark.slow) for one in (100, 400, 1500))])
def test_no_room_for_it(tmp_path: Path, registry: Path, room: int) -> None:
    """No file may grow beyond so many bytes, wherever that is met."""
    command = [sys.executable, "-c", FULL, str(room), "add", str(tmp_path / "second"), "--into", str(registry)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        assert "Traceback" not in done.stderr and "make room" in done.stderr and done.stderr.count("\n") == 1
    version = LocalSource(registry).load("tiny/spm/cigarette").manifest.version
    assert version == "1" or (version == "2" and room > 400)
    assert all(row["ok"] for row in Registry([registry]).verify() if version == "1")
    assert not list(registry.rglob(".new-*"))
    LocalSource(registry).add(open_artifact(tmp_path / "second"))
    assert all(row["ok"] for row in Registry([registry]).verify())


@pytest.mark.parametrize("place", ["registry", "family", "artifact", "cache", "home"])
def test_folders_that_cannot_be_written(
    tmp_path: Path, registry: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where a folder belongs, which not even root can write into."""
    from registry_tools import served

    new, blocked = open_artifact(tmp_path / "second"), tmp_path / "blocked"
    blocked.write_text("")
    with pytest.raises(RegistryError, match=r"cannot be written \(.*\): ") as caught:
        if place == "cache":
            with served(registry) as (address, _):
                RemoteSource(address, blocked / "cache").pull("tiny/spm/cigarette")
        elif place == "home":
            monkeypatch.setenv("CONCEPTGUARD_HOME", str(blocked / "home"))
            from conceptguard.registry import default_registry

            default_registry().add(new)
        else:
            root = {"registry": blocked, "family": tmp_path / "f", "artifact": tmp_path / "f"}[place]
            if place != "registry":
                (tmp_path / "f" / "tiny" / "spm").mkdir(parents=True)
                step = "tiny/spm/cigarette" if place == "artifact" else "tiny/spm"
                path = tmp_path / "f" / step
                if path.is_dir():
                    path.rmdir()
                path.write_text("")
            LocalSource(root).add(new)
    assert "\n" not in str(caught.value)
