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

EXAMPLES = ROOT / "examples"


def install(example: str, folder: Path) -> tuple[Path, dict[str, str]]:
    """An example built and installed into a folder of its own, and an environment that sees it."""
    source = shutil.copytree(EXAMPLES / example, folder / "source")  # building leaves folders behind
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder / "site")]
    subprocess.run([*pip, *offline, str(source)], check=True)
    path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))
    return source, {**os.environ, "PYTHONPATH": path}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The example of a method."""
    return install("wordlist", tmp_path_factory.mktemp("example"))


def run(environment: dict[str, str], folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=folder, text=True, capture_output=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed(installed: tuple[Path, dict[str, str]]) -> None:
    source, environment = installed
    listed = run(environment, source, "-c", "from conceptguard.plugins import methods; print(*methods())").split()
    assert "wordlist" in listed and "spm" in listed
    listed = run(
        {**environment, "PYTHONPATH": ""},
        source.parent,
        "-c",
        "from conceptguard.plugins import methods; print(*methods())",
    )
    assert "wordlist" not in listed.split()


def test_it_keeps_the_contract(installed: tuple[Path, dict[str, str]]) -> None:
    source, environment = installed
    (source / "pytest.ini").write_text("[pytest]\nmarkers = slow\naddopts = -q -m 'not slow'\n")
    told = run(environment, source, "-m", "pytest", "-p", "no:cacheprovider", "test_wordlist.py")
    passed = int(told.split(" passed")[0].split()[-1])
    assert passed >= 15, told


def test_a_host_of_ones_own_keeps_the_contract(tmp_path: Path) -> None:
    source, environment = install("function_host", tmp_path)
    told = run(environment, source, "-m", "pytest", "-p", "no:cacheprovider", "-q")
    passed = int(told.split(" passed")[0].split()[-1])
    assert passed >= 20, told


def test_examples_import_what_is_public() -> None:
    """``conceptguard`` and ``conceptguard.testing``, and of those what they name."""
    import conceptguard
    import conceptguard.testing

    public = {"conceptguard": conceptguard.__all__, "conceptguard.testing": conceptguard.testing.__all__}
    for path in sorted(EXAMPLES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "conceptguard":
                assert {name.name for name in node.names} <= set(public.get(node.module or "", ())), path
