"""``conceptguard comfyui install`` and ``uninstall``, and what the pack says about itself."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from paths import ROOT

import conceptguard
from conceptguard.cli import run
from conceptguard.hosts.comfyui.pack import OLDEST, pack_folder

PACK = ROOT / "nodes"


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.3.75"\n')
    return tmp_path


def test_linked_and_taken_out_again(comfyui: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # again is an update
        assert run(["comfyui", "install", str(comfyui), "--json", "-"]) == 0
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        assert row["how"] == "linked" and row["core"] == "0.3.75"
    pack = comfyui / "custom_nodes" / "conceptguard"
    assert pack.resolve() == pack_folder().resolve() == PACK
    assert run(["comfyui", "uninstall", str(comfyui)]) == 0
    assert not pack.exists() and not pack.is_symlink() and PACK.is_dir()
    assert run(["comfyui", "uninstall", str(comfyui)]) == 1


def test_what_to_restart_is_said(comfyui: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["comfyui", "install", str(comfyui)]) == 0
    assert "Restart ComfyUI" in capsys.readouterr().out


def test_copied_where_links_cannot_be_made(comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise OSError("a privilege is missing")

    monkeypatch.setattr(Path, "symlink_to", forbidden)
    for _ in range(2):
        assert run(["comfyui", "install", str(comfyui)]) == 0
    pack = comfyui / "custom_nodes" / "conceptguard"
    assert (pack / "__init__.py").is_file() and not pack.is_symlink()
    assert run(["comfyui", "uninstall", str(comfyui)]) == 0
    assert not pack.exists()


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda f: (f / "comfyui_version.py").write_text('__version__ = "0.2.3"\n'), "needs? .*0.3.64 or newer"),
        (lambda f: (f / "custom_nodes").rmdir(), "no custom_nodes folder"),
        (lambda f: (f / "custom_nodes" / "conceptguard").mkdir(), "somebody else"),
    ],
)
def test_what_cannot_be_installed(
    comfyui: Path, prepare: Callable[[Path], object], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(comfyui)
    before = sorted(os.listdir(comfyui))
    assert run(["comfyui", "install", str(comfyui)]) == 1
    assert re.search(says, capsys.readouterr().err)
    assert sorted(os.listdir(comfyui)) == before


def test_the_pack_s_own_description() -> None:
    """For ComfyUI's registry and manager: its folder by itself, no torch, one version for all."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    about = tomllib.loads((PACK / "pyproject.toml").read_text())
    assert about["project"]["version"] == conceptguard.__version__
    assert about["tool"]["comfy"]["DisplayName"] == "ConceptGuard" and "comfyui" not in about["project"]["name"]
    assert about["tool"]["comfy"]["requires-comfyui"] == ">=" + ".".join(map(str, OLDEST))
    needs, frontend = (PACK / "requirements.txt").read_text().split(), "comfyui-frontend-package"
    assert not any(need.startswith(("torch", frontend)) for need in needs)  # whose versions are the core's to choose
    assert needs == [need for need in about["project"]["dependencies"] if not need.startswith(frontend)]


def test_what_the_registry_asks_for() -> None:
    """Its specification of pyproject.toml: a name for addresses, three figures, a licence's table, a square icon."""
    tomllib = pytest.importorskip("tomllib")
    about = tomllib.loads((PACK / "pyproject.toml").read_text())
    project, comfy = about["project"], about["tool"]["comfy"]
    assert re.fullmatch(r"[a-zA-Z](?:[-_.]?[a-zA-Z0-9])*", project["name"]) and len(project["name"]) < 100
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"]) and project["license"] == {"text": "Apache-2.0"}
    assert project["urls"]["Repository"] == "https://github.com/conceptguard/conceptguard"
    assert any(need.startswith("comfyui-frontend-package>=") for need in project["dependencies"])
    assert comfy["PublisherId"] and comfy["Icon"].endswith("/main/nodes/web/shield.svg")
    width, height = re.findall(r'viewBox="0 0 (\d+) (\d+)"', (PACK / "web" / "shield.svg").read_text())[0]
    assert width == height
