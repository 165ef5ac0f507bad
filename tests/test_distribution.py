"""What is published: the wheel and the sdist carry everything, and the wheel works where there is no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from paths import ROOT

ROOTS = {
    "conceptguard": "conceptguard",
    "plugins": "conceptguard_plugins",
    "nodes": "conceptguard_nodes",
    "registry": "conceptguard_registry",
}
BAR_MB = {".whl": 95, ".gz": 99}  # an index takes files of up to 100
# What lies about in a checkout, and nobody should get.
JUNK = ("plugins/__pycache__/spm.cpython-311.pyc", "registry/.lock", "tests/__pycache__/x.pyc", "nodes/web/.DS_Store")


class Built(NamedTuple):
    """What was built out of which files: those that git keeps, and all that it does not ignore."""

    tracked: frozenset[str]
    files: frozenset[str]
    wheel: Path
    sdist: Path


def listed(*options: str) -> frozenset[str]:
    """What git lists, as far as it is there."""
    command = ["git", "ls-files", "-z", *options]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return frozenset(name for name in names if name and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both, built in a copy: building leaves folders behind, and what they hold would get into the next wheel."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the project cannot be told from what lies about")
    tracked, files = listed("--cached"), listed("--cached", "--others", "--exclude-standard")
    folder = tmp_path_factory.mktemp("dist")
    for name in files:
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    for name in JUNK:
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_bytes(b"junk")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(folder / "source")]
    done = subprocess.run(build, cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return Built(tracked, files, next(folder.glob("*.whl")), next(folder.glob("*.tar.gz")))


def test_the_wheel_has_every_file_of_the_four_folders_and_no_other(built: Built) -> None:
    inside = {name for name in zipfile.ZipFile(built.wheel).namelist() if ".dist-info/" not in name}
    split = [name.split("/", 1) for name in built.files if "/" in name]
    expected = {f"{ROOTS[top]}/{rest}" for top, rest in split if top in ROOTS}
    assert {"conceptguard/py.typed", "conceptguard_nodes/web/shield.svg"} <= expected
    assert inside == expected


def test_the_wheel_says_what_it_is(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        about = {name.split("/", 1)[1]: name for name in wheel.namelist() if ".dist-info/" in name}
        metadata = wheel.read(about["METADATA"]).decode()
        assert wheel.read(about["licenses/LICENSE"]) == (ROOT / "LICENSE").read_bytes()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "\nProject-URL: Repository, https://github.com/conceptguard/conceptguard\n" in metadata


def test_the_sdist_has_all_that_builds_tests_and_explains(built: Built) -> None:
    """All but what is for this repository alone, whose names begin with a dot."""
    with tarfile.open(built.sdist) as sdist:
        inside = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    assert {name for name in built.tracked if not name.startswith(".")} <= inside
    assert not [name for name in inside if "__pycache__" in name or name.endswith((".lock", ".DS_Store", ".pyc"))]


def test_the_size(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {path.name: path.stat().st_size / 1e6 for path in (built.wheel, built.sdist)}
    with capsys.disabled():
        print("\n" + ", ".join(f"{name}: {size:.1f} MB" for name, size in sizes.items()))
    assert all(size < BAR_MB[Path(name).suffix] for name, size in sizes.items()), sizes


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A Python with the wheel in it, that sees this one's packages but not the checkout; and a user's empty home."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(built.wheel)], check=True)
    # A line in a .pth file adds a folder, and does not run the .pth files in it: the editable install stays unseen.
    sites = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "packages.pth").write_text("\n".join(sites) + "\n")
    home = {name: str(folder / "home") for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CONCEPTGUARD", "VIRTUAL_ENV"))}
    (folder / "home").mkdir()
    return folder, {**kept, **home, "PYTHONSAFEPATH": "1"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_works_without_the_checkout(installed: tuple[Path, dict[str, str]]) -> None:
    folder, environment = installed
    (folder / "work").mkdir()
    (folder / "ComfyUI" / "custom_nodes").mkdir(parents=True)

    def run(*command: object) -> str:
        words = [str(folder / "venv" / "bin" / str(command[0])), *map(str, command[1:])]
        done = subprocess.run(words, env=environment, cwd=folder / "work", text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def rows(*words: object) -> list[dict[str, Any]]:
        return list(json.loads(run("conceptguard", *words, "--json", "-"))["rows"])

    where = f"import {', '.join(ROOTS.values())}; print(*(m.__file__ for m in ({', '.join(ROOTS.values())})))"
    assert all(Path(file).is_relative_to(folder / "venv") for file in run("python", "-c", where).split())

    shipped = json.loads((ROOT / "registry" / "index.json").read_text())["entries"]
    assert [row["ref"] for row in rows("list")] == [entry["ref"] for entry in shipped]
    assert {"spm", "uce", "guard", "phrases"} <= {row["method"] for row in rows("plugins")}

    (row,) = rows("comfyui", "install", folder / "ComfyUI")
    assert Path(row["pack"]).resolve().is_relative_to(folder / "venv")
    assert (Path(row["pack"]) / "web" / "shield.svg").is_file()

    (row,) = rows("demo", "--out", folder / "demo")
    assert row["erased_before"] > 0.8 and row["erased_after"] < 0.1
    assert (folder / "demo" / "sheet.png").is_file()
