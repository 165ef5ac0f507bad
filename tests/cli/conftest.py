"""A user of the command line: nothing of the machine's own, and a model that takes milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's registry and cache of its own."""
    monkeypatch.setenv("CONCEPTGUARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Commands load a pipeline that takes milliseconds."""
    monkeypatch.setattr("conceptguard.hosts.load.load_model", lambda name, **options: tiny)
    return tiny
