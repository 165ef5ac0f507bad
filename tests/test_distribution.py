"""What is published: wheels and sdists carry everything, and the wheels work where there is no checkout."""

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

from conceptguard.registry.places import APART

ROOTS = {
    "conceptguard": "conceptguard",
    "plugins": "conceptguard_plugins",
    "nodes": "conceptguard_nodes",
    "registry": "conceptguard_registry",
}
MODELS = "conceptguard-models"  # the distribution of models that conceptguard's own wheel has no room for
BAR_MB = 95  # an index takes files of up to 100
# What lies about in a checkout, and nobody should get.
JUNK = ("plugins/__pycache__/spm.cpython-311.pyc", "registry/.lock", "tests/__pycache__/x.pyc", "nodes/web/.DS_Store")


class Built(NamedTuple):
    """What was built out of which files: those that git keeps, and all that it does not ignore; and the models'."""

    tracked: frozenset[str]
    files: frozenset[str]
    wheel: Path
    sdist: Path
    models_wheel: Path
    models_sdist: Path


def is_apart(name: str) -> bool:
    """Whether a file of the checkout is in the other distribution."""
    return name.startswith((f"{MODELS}/", *(f"registry/models/{model}/" for model in APART)))


def listed(*options: str) -> frozenset[str]:
    """What git lists, as far as it is there; a link is one, whatever it leads to."""
    command = ["git", "ls-files", "-z", *options]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return frozenset(name for name in names if name and ((ROOT / name).is_file() or (ROOT / name).is_symlink()))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both, built in a copy: building leaves folders behind, and what they hold would get into the next wheel."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the project cannot be told from what lies about")
    tracked, files = listed("--cached"), listed("--cached", "--others", "--exclude-standard")
    folder = tmp_path_factory.mktemp("dist")
    for name in files:
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name, follow_symlinks=False)
    for name in JUNK:
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_bytes(b"junk")
    for source in (folder / "source", folder / "source" / MODELS):
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
        done = subprocess.run(build, cwd=folder, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
    made = [next(folder.glob(f"{name}-[0-9]*{kind}"))
            for name in ("conceptguard", "conceptguard_models") for kind in (".whl", ".tar.gz")]  # fmt: skip
    return Built(tracked, files, *made)


def inside(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_the_wheel_has_every_file_of_the_four_folders_and_no_other(built: Built) -> None:
    split = [name.split("/", 1) for name in built.files if "/" in name and not is_apart(name)]
    expected = {f"{ROOTS[top]}/{rest}" for top, rest in split if top in ROOTS}
    assert {"conceptguard/py.typed", "conceptguard_nodes/web/shield.svg"} <= expected
    assert inside(built.wheel) == expected


def test_the_models_that_travel_apart_have_every_file_and_no_other(built: Built) -> None:
    links = (ROOT / MODELS / "conceptguard_registry" / "models").glob("*")
    assert {path.name for path in links} == APART, "for the build, and for whoever asks for one"
    expected = {f"conceptguard_{name}" for name in built.files if name.startswith("registry/") and is_apart(name)}
    assert "conceptguard_registry/models/emoji-flow/README.md" in expected
    assert inside(built.models_wheel) == expected
    assert not expected & inside(built.wheel)
    with tarfile.open(built.models_sdist) as sdist:
        assert expected <= {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
        assert not [member.name for member in sdist if member.issym() or member.islnk()]


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
    assert {name for name in built.tracked if not (name.startswith(".") or is_apart(name))} <= inside
    assert not [name for name in inside if is_apart(name)]
    assert not [name for name in inside if "__pycache__" in name or name.endswith((".lock", ".DS_Store", ".pyc"))]


def test_the_size(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {path.name: path.stat().st_size / 1e6 for path in built if isinstance(path, Path)}
    with capsys.disabled():
        print("\n" + ", ".join(f"{name}: {size:.1f} MB" for name, size in sizes.items()))
    assert len(sizes) == 4 and all(size < BAR_MB for size in sizes.values()), sizes


def install(python: Path, wheel: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A Python with the wheel in it that sees this one's packages but not the checkout, and a user's empty home."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    install(python, built.wheel)
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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_models_that_travel_apart_are_asked_for_and_found(built: Built, installed: tuple[Path, dict[str, str]]) -> None:
    folder, environment = installed
    python, cli = (folder / "venv" / "bin" / name for name in ("python", "conceptguard"))

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*map(str, words)], env=environment, cwd=folder, text=True, capture_output=True)

    def verified() -> dict[str, dict[str, Any]]:
        return {row["ref"]: row for row in json.loads(run(cli, "verify", "--json", "-").stdout)["rows"]}

    load = "import conceptguard; print(type(conceptguard.load_model('emoji-flow')).__name__)"
    missing = run(python, "-c", load)
    assert missing.returncode != 0
    assert "model 'emoji-flow' is in a distribution of its own: pip install 'conceptguard[models]'" in missing.stderr
    rows = verified()
    assert "models/emoji-flow" not in rows and rows["models/emoji-sd"]["ok"]
    asked = run(cli, "verify", "models/emoji-flow")
    assert asked.returncode == 1 and "conceptguard[models]" in asked.stdout + asked.stderr

    install(python, built.models_wheel)
    assert run(python, "-c", load).stdout.strip() == "StableDiffusion3Pipeline"
    assert verified()["models/emoji-flow"]["signed"] == verified()["models/emoji-sd"]["signed"]
