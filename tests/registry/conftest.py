"""A signed registry, its mirror, and who reads it, at a time that tests set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from signed_tools import Clock, Keeper, Mirror, Reader, mirrored


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    """The time, and a home and a cache of the test's own."""
    monkeypatch.setenv("CONCEPTGUARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / "cache"))
    return Clock(monkeypatch)


@pytest.fixture
def keeper(tmp_path: Path, clock: Clock) -> Keeper:
    """A signed registry."""
    return Keeper(tmp_path)


@pytest.fixture
def mirror(keeper: Keeper) -> Iterator[Mirror]:
    """Its mirror, honest so far."""
    with mirrored(Mirror(keeper.folder)) as mirror:
        yield mirror


@pytest.fixture
def reader(keeper: Keeper, mirror: Mirror, tmp_path: Path) -> Reader:
    """Who trusts it, and has read it once."""
    reader = Reader(keeper, mirror, tmp_path / "cache")
    assert reader.load().signed_by == "Ann"
    return reader
