"""Kills the writing of a large registry's index, or of its catalogue, at every step; a JSON line for each.

python interrupted_index.py FOLDER WHAT STRIDE     WHAT: a change of CHANGES, "catalogue", "next catalogue" or "full"
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from registry_tools import make

from conceptguard.errors import RegistryError
from conceptguard.registry import reindex, shards
from conceptguard.registry.index import Entry, entry_of
from conceptguard.registry.local import LocalSource
from conceptguard.registry.reindex import change_index, write_index

# What an index of a few entries is here, so that a change of many is soon made.
shards.FEW, shards.PER_SHARD = 20, 4
STEPS = {"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}
# Entries before, and those that a change takes away and adds.
CHANGES = {"one shard": (25, 0, 1), "to shards": (20, 0, 1), "from shards": (21, 1, 0), "more shards": (32, 0, 1)}


def killed(do: Callable[[], object], root: Path, step: int) -> bool:
    """Whether the process that does it was killed, before its step of this number: at the files, or of a table."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    count = 0

    def one() -> None:
        nonlocal count
        count += 1
        if count > step:
            os._exit(9)

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event in STEPS and str(root) in str(args[0]):
            one()

    connect = sqlite3.connect

    def watched(*args: Any, **options: Any) -> sqlite3.Connection:
        made = connect(*args, **options)
        made.set_progress_handler(lambda: one() or 0, 2000)  # so many steps of its machine: in the middle of a table
        made.set_trace_callback(lambda _: one())
        return made

    sqlite3.connect = watched
    sys.addaudithook(watch)
    do()
    os._exit(0)


def listed(root: Path) -> list[Entry]:
    """What a reader sees."""
    return [dataclasses.replace(one, source="") for one in LocalSource(root).entries()]


def index_killed(folder: Path, what: str, stride: int) -> None:
    root, before = folder / "r", folder / "before"
    count, less, more = CHANGES[what]
    entries = known(folder, count + more + 1)
    old, new, other = entries[:count], entries[less : count + more], entries[-1]
    before.mkdir()
    shards.PER_SHARD *= 2  # there are half as many as would be made now
    write_index(before, old[:-1])
    shards.PER_SHARD //= 2
    change_index(before, old[-1])  # so that the next change has something of two versions ago to take away

    def change() -> None:
        if less:
            change_index(root, None, entries[0].ref)
        else:
            change_index(root, new[-1])

    for step in range(0, 1000, stride):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(before, root)
        was_killed = killed(change, root, step)
        seen = listed(root)
        row = {"step": step, "sees": "old" if seen == old else "new" if seen == new else f"{len(seen)} entries"}
        change_index(root, other)
        row["then"] = listed(root) == sorted([*seen, other], key=lambda one: one.ref)
        # A shard more than the last two versions of the index name is never swept.
        names = {one.name for one in (root / "index").glob("*")} if (root / "index").is_dir() else set()
        row["left"] = sorted(name for name in names if name.startswith(".new-"))
        row["files"] = len(names)
        tell(row, was_killed)
        if not was_killed:
            return
    raise SystemExit("never ended")


def catalogue_killed(folder: Path, what: str, stride: int) -> None:
    root, before, cache = folder / "r", folder / "before", Path(os.environ["CONCEPTGUARD_CACHE"])
    entries = known(folder, 200)
    root.mkdir()
    write_index(root, entries[:-1])
    if what == "next catalogue":  # which takes over what did not change
        listed(root)
    before.mkdir()
    shutil.copytree(cache, before, dirs_exist_ok=True) if cache.is_dir() else None
    change_index(root, entries[-1])
    wanted = sorted(entries, key=lambda one: one.ref)
    for step in range(0, 10000, stride):
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(before, cache)
        was_killed = killed(lambda: listed(root), cache, step)
        row = {"step": step, "sees": "new" if listed(root) == wanted else "something else"}
        row["then"] = listed(root) == wanted
        row["left"] = sorted(one.name for one in cache.rglob(".new-*"))
        row["files"] = len(list(cache.rglob("*.sqlite")))
        tell(row, was_killed)
        if not was_killed:
            return
    raise SystemExit("never ended")


def full(folder: Path, _: str, stride: int) -> None:
    """No file may grow beyond so many bytes."""
    root, cache = folder / "r", Path(os.environ["CONCEPTGUARD_CACHE"])
    entries = known(folder, 61)
    old, new = entries[:-1], entries
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for room in range(1, 150_000, stride):
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)
        root.mkdir()
        write_index(root, old)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        with suppress(RegistryError):
            change_index(root, entries[-1])
        seen = listed(root)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        row = {"step": room, "sees": "old" if seen == old else "new" if seen == new else "something else"}
        row["left"] = sorted(one.name for place in (root, cache) for one in place.rglob(".new-*"))
        kept = len(list(cache.rglob("*.sqlite")))
        change_index(root, entries[-1])
        row["then"] = listed(root) == new
        row["files"] = kept
        tell(row, not (seen == new and kept))


def known(folder: Path, count: int) -> list[Entry]:
    """Entries of artifacts that are not there, by their references."""
    make(folder / "a")
    one = entry_of(folder / "a")
    return [dataclasses.replace(one, ref=f"tiny/spm/c{i:04}", name=f"c{i:04}", source="") for i in range(count)]


def tell(row: dict[str, Any], was_killed: bool) -> None:
    print(json.dumps({**row, "fault": was_killed}), flush=True)


if __name__ == "__main__":
    assert reindex.shards is shards
    place, kind = Path(sys.argv[1]), sys.argv[2]
    parts = {"catalogue": catalogue_killed, "next catalogue": catalogue_killed, "full": full}
    parts.get(kind, index_killed)(place, kind, int(sys.argv[3]))
