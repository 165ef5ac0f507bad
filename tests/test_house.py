"""The plan of the house is held by contracts, and a contract that is broken is seen."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

FOLDERS = {"conceptguard": "conceptguard", "plugins": "conceptguard_plugins", "nodes": "conceptguard_nodes"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources alone, under their import names, with the contracts."""
    folder = tmp_path_factory.mktemp("house")
    for name, package in FOLDERS.items():
        ignore = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.png", "web")
        shutil.copytree(ROOT / name, folder / package, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command as main; main()"
    return subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=folder, capture_output=True, text=True)


def test_the_contracts_are_kept(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout


BREAKS = (
    ("conceptguard/runtime/banks.py", "from ..sessions.session import Session"),
    ("conceptguard/text/words.py", "from ..sessions import attach"),
    ("conceptguard/method.py", "import conceptguard_plugins.diffusion.sld"),
    ("conceptguard_plugins/diffusion/sld.py", "import diffusers\nfrom conceptguard.hosts import load"),
    (
        "conceptguard/hosts/denoising/families.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .text_encoders import TextEncoder",
    ),
)
SEEN = (
    "Methods and nodes know conceptguard, never the other way round",
    "Frameworks are known in hosts",
    "No circle, in any room",
    "A method asks its host, and knows none",
    "conceptguard.runtime is not allowed to import conceptguard.sessions",
    "conceptguard.text is not allowed to import conceptguard.sessions",
)


def test_broken_contracts_are_seen(copy: Path) -> None:
    for file, line in BREAKS:
        path = copy / file
        path.write_text(f"{path.read_text()}\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1
    told = done.stdout.splitlines()
    for seen in SEEN:
        named = [text for text in told if text.startswith(seen)]
        assert named and ("BROKEN" in named[0] or "not allowed" in seen), f"{seen}\n{done.stdout}"
