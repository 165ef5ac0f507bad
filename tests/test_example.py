"""The example package, installed as a stranger's would be, is found, acts, and keeps the contract."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from conceptguard.plugins import methods

EXAMPLES = ROOT / "examples"
PACKAGES = ["wordlist", "function_host"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The examples of a method and of a host, built and installed into a folder of their own, and an environment that
    sees it."""
    folder = tmp_path_factory.mktemp("examples")
    sources = [shutil.copytree(EXAMPLES / name, folder / name) for name in PACKAGES]  # building leaves folders behind
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder / "site")]
    subprocess.run([*pip, *offline, *map(str, sources)], check=True)
    path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))
    return folder, {**os.environ, "PYTHONPATH": path}


@pytest.fixture(scope="module")
def told(installed: tuple[Path, dict[str, str]]) -> str:
    """What pytest says of the tests of both, run in one process: importing everything takes longer than they do."""
    folder, environment = installed
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = -v -m 'not slow' -W error::pytest.PytestUnknownMarkWarning\n"
    )
    return run(environment, folder, "-m", "pytest", "-p", "no:cacheprovider", *PACKAGES)


def passed(told: str, example: str) -> int:
    return sum(line.startswith(f"{example}/") and " PASSED" in line for line in told.splitlines())


def run(environment: dict[str, str], folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=folder, text=True, capture_output=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed(installed: tuple[Path, dict[str, str]]) -> None:
    folder, environment = installed
    listed = run(environment, folder, "-c", "from conceptguard.plugins import methods; print(*methods())").split()
    assert "wordlist" in listed and "spm" in listed
    assert "wordlist" not in methods(), "this process does not see that folder"


def test_it_keeps_the_contract(told: str) -> None:
    assert passed(told, "wordlist") >= 15, told


def test_a_host_of_ones_own_keeps_the_contract(told: str) -> None:
    assert passed(told, "function_host") >= 20, told


def test_examples_import_what_is_public() -> None:
    """``conceptguard`` and ``conceptguard.testing``, and of those what they name."""
    import conceptguard
    import conceptguard.testing

    public = {"conceptguard": conceptguard.__all__, "conceptguard.testing": conceptguard.testing.__all__}
    for path in sorted(EXAMPLES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "conceptguard":
                assert {name.name for name in node.names} <= set(public.get(node.module or "", ())), path
