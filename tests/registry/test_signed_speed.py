"""What signatures cost once a registry has been read. Processor time, so that a busy machine does not matter."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from signed_tools import WINE, Clock, Keeper, Mirror, Reader

import conceptguard
from conceptguard.registry import client, shipped_folder
from conceptguard.registry.local import LocalSource
from conceptguard.registry.signed import publish, roots


def seconds(act: Callable[[], Any], times: int) -> float:
    """The least of several times, each of ten calls, for one."""
    found = []
    for _ in range(times):
        started = time.process_time()
        for _ in range(10):
            act()
        found.append((time.process_time() - started) / 10)
    return min(found)


def test_checking_an_artifact_takes_less_than_5_ms(keeper: Keeper, mirror: Mirror, reader: Reader) -> None:
    roots.trust(keeper.folder, keeper.root)
    folder, source = LocalSource(keeper.folder), reader.source()
    for one in (folder, source):
        signed = seconds(lambda one=one: one.load(WINE), 5)
        assert one.load(WINE).signed_by == "Ann"
        checked = seconds(lambda one=one: one.view().check(WINE, one.find(WINE).sha256), 5)
        print(f"{one}: load {1000 * signed:.2f} ms, of these signatures {1000 * checked:.3f} ms")
        assert checked < 0.005


@pytest.mark.slow
def test_attaching_a_signed_policy_of_ten(
    pipe: Any, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not more than a twentieth longer than without anybody's signature: the same folder, trusted and not, in turns."""
    folder = tmp_path / "home"
    names = sorted(path.name for path in (shipped_folder() / "emoji-sd" / "spm").iterdir())[:10]
    for name in names:
        shutil.copytree(shipped_folder() / "emoji-sd" / "spm" / name, folder / "emoji-sd" / "spm" / name)
    monkeypatch.setattr(client, "shipped_folder", lambda: tmp_path / "none")
    publish.init(folder, tmp_path / "keys", owner="Ann")
    root = (folder / "metadata" / "1.root.json").read_bytes()
    policy = {"guards": [{"method": "spm", "artifact": f"emoji-sd/spm/{name}"} for name in names]}
    times: dict[str, list[float]] = {"": [], "Ann": []}
    for turn in range(40):
        by = ("", "Ann")[turn % 2]
        roots.trust(folder, root) if by else roots.trusted(folder) and roots.distrust(folder)
        started = time.process_time()
        session = conceptguard.attach(pipe, policy)
        took = time.process_time() - started
        assert {method.artifact.signed_by for method in session.methods} == {by}
        session.detach()
        if turn > 3:
            times[by].append(took)
    unsigned, signed = (min(times[by]) for by in ("", "Ann"))
    print(f"attach: unsigned {1000 * unsigned:.1f} ms, signed {1000 * signed:.1f} ms, {signed / unsigned:.3f}")
    assert signed <= 1.05 * unsigned
