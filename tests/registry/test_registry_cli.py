"""The registry's commands, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from commands import reported, said
from registry_tools import make, membrane, served

from conceptguard.registry.local import LocalSource


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's registry and cache of its own, and no shipped registry."""
    monkeypatch.setenv("CONCEPTGUARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CONCEPTGUARD_REGISTRIES", raising=False)
    monkeypatch.setattr("conceptguard.registry.client.shipped_folder", lambda: tmp_path / "shipped")
    return tmp_path / "home"


def rows(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> list[dict[str, Any]]:
    whole = reported(capsys, *words, status=status)
    assert whole["command"] == words[0]
    return list(whole["rows"])


def test_add_list_show_verify_remove(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "a", "cigarette", 1)
    make(tmp_path / "b", "wine", 2, method="uce")
    assert rows(capsys, "add", str(tmp_path / "a"))[0]["ref"] == "tiny/spm/cigarette"
    said(capsys, "add", str(tmp_path / "b"))
    table, _ = said(capsys, "list")
    assert "tiny/spm/cigarette" in table and "erased_after" in table and "0.01" in table
    assert [row["ref"] for row in rows(capsys, "list", "--method", "uce")] == ["tiny/uce/wine"]
    assert [row["ref"] for row in rows(capsys, "list", "--concept", "CIGAR")] == ["tiny/spm/cigarette"]
    assert "there are tiny" in said(capsys, "list", "--base", "other", "--json", "-", status=1)[1]
    assert rows(capsys, "list", "--base", "other", status=1) == []
    card, _ = said(capsys, "show", "cigarette")
    assert "CC0-1.0" in card and "erased_after: 0.01" in card
    assert rows(capsys, "show", "cigarette")[0]["concept"]["prompts"] == ["cigarette", "a cigarette"]
    assert all(row["ok"] for row in rows(capsys, "verify"))
    weights = home / "tiny/spm/cigarette/cigarette.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    bad = [row for row in rows(capsys, "verify", status=1) if not row["ok"]]
    assert len(bad) == 1 and "truncated" in bad[0]["why"]
    assert len(rows(capsys, "verify", "tiny/uce/wine")) == 1
    said(capsys, "remove", "cigarette")
    assert [row["ref"] for row in rows(capsys, "list")] == ["tiny/uce/wine"]


def test_import_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    safetensors.torch.save_file(membrane(3), tmp_path / "x_last.safetensors", metadata={"prompts": "a, b"})
    imported = rows(capsys, "import", str(tmp_path / "x_last.safetensors"), "--as", "spm", "--base", "tiny")
    assert imported[0]["ref"] == "tiny/spm/a"
    out = tmp_path / "out.safetensors"
    assert rows(capsys, "export", "tiny/spm/a", "--format", "kohya", "--out", str(out))[0]["how"] == "as stored"
    assert out.read_bytes() == (tmp_path / "x_last.safetensors").read_bytes()


def test_pull_through_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    LocalSource(tmp_path / "mirror").add(make(tmp_path / "a"))
    with served(tmp_path / "mirror") as (address, _):
        monkeypatch.setenv("CONCEPTGUARD_REGISTRIES", address)
        assert rows(capsys, "list")[0]["source"] == address
        folder = Path(rows(capsys, "pull", "cigarette")[0]["folder"])
    assert folder.is_relative_to(tmp_path / "cache")
    assert all(row["ok"] for row in rows(capsys, "verify"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "cigarete"], "no artifact 'cigarete'"),
        (["add", "nowhere"], "no such folder"),
        (["import", "x.pt", "--as", "spm", "--base", "tiny"], "no such file"),
        (["import", "x.pt", "--as", "spm"], "--base FAMILY"),
        (["remove", "x"], "no artifact"),
        (["pull", "x"], "no artifact"),
    ],
)
def test_errors_are_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, *words, status=1)
    assert says in err and err.count("\n") == 1 and not out


def test_text_of_strangers_does_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    concept = {"name": "x\x1b[2Jy", "prompts": ["[red]x[/red]"]}
    make(tmp_path / "a", concept=concept, card={"note": "\x1b]0;title\x07"})
    said(capsys, "add", str(tmp_path / "a"))
    for words in (["list"], ["show", "x-2jy"]):
        assert "\x1b" not in said(capsys, *words)[0]


def test_list_is_light(home: Path, tmp_path: Path) -> None:
    """Many artifacts listed without torch, quickly: CPU time, so that a busy machine does not matter."""
    source = LocalSource(home)
    source.add(make(tmp_path / "a"))
    index = json.loads((home / "index.json").read_text())
    one = index["entries"][0]
    index["entries"] = [{**one, "ref": f"tiny/spm/c{n}", "name": f"c{n}"} for n in range(1000)]
    (home / "index.json").write_text(json.dumps(index))
    code = (
        "import sys, time\nfrom conceptguard.cli import run\nassert run(['list', '--json', '-']) == 0\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules\n"
        "print(time.process_time(), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ}, check=True
    )
    assert len(json.loads(done.stdout)["rows"]) >= 1000
    assert float(done.stderr.split()[-1]) < 0.5


def test_progress_only_when_it_takes_long(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from conceptguard.cli import registry

    assert list(registry._with_progress(iter(range(3)), 3)) == [0, 1, 2]
    assert "verifying" not in capsys.readouterr().err
    monkeypatch.setattr(registry, "_PATIENCE_SECONDS", 0.0)
    started = time.monotonic()
    assert list(registry._with_progress(iter(range(3)), 3)) == [0, 1, 2]
    assert time.monotonic() - started < 60
