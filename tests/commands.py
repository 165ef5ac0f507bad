"""The command line in this process: what it says, and what it reports."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conceptguard.cli import run


def said(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> tuple[str, str]:
    """Standard output and standard error of a command that ends with this status."""
    assert run([str(word) for word in words]) == status, capsys.readouterr().err
    return capsys.readouterr()


def reported(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> dict[str, Any]:
    """What ``--json -`` writes: all of standard output is one object."""
    whole = json.loads(said(capsys, *words, "--json", "-", status=status)[0])
    assert {"command", "version", "device", "seconds", "rows"} <= whole.keys()
    return dict(whole)
