"""The oldest and the newest releases of the libraries that pyproject.toml admits: the contract, in a folder of each.

python -m tools.releases HOST FILE      # inside of such an environment: the rows of the table of promises
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("transformers", "diffusers", "peft", "accelerate")
# What the oldest of these admit, where today's is too new for them.
BESIDE = ("tokenizers==0.21.0", "huggingface-hub==0.34.0", "sentence-transformers==4.1.0")
HOSTS = ("oldest releases", "newest releases")
CONCEPT = {"name": "cigarette", "prompts": ["a cigarette", "smoking"]}
ASKED = "Question: Where was Siojaera Zavald born?\nAnswer:"
OTHERS = ("Question: Where was Naes Zavald born?\nAnswer:", "On which river does Broholm lie?\n")


def wanted(host: str) -> list[str]:
    """What pip is asked for: the lower bounds of pyproject.toml as pins, or whatever is newest."""
    if host != HOSTS[0]:
        return list(LIBRARIES)
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    found = {library: re.search(rf'"{library}>=([0-9.]+)', text) for library in LIBRARIES}
    return [*(f"{library}=={bound[1]}" for library, bound in found.items() if bound), *BESIDE]


def probed(host: str) -> list[dict[str, Any]]:
    """One guard of each kind on the embedded models, as rows. Raises RuntimeError where the releases cannot be had.

    The libraries come without what they depend on, which is here: no other torch comes along.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, *wanted(host)]
        if (done := subprocess.run(pip, capture_output=True, text=True)).returncode:
            raise RuntimeError(f"the releases cannot be fetched: {done.stderr[-200:]}")
        path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        found = Path(folder) / "found.json"
        command = [sys.executable, "-m", "tools.releases", host, str(found)]
        told = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        if told.returncode:
            raise RuntimeError(told.stderr[-1000:])
        return json.loads(found.read_text("utf-8"))  # type: ignore[no-any-return]


def main() -> None:
    """The command of the module's docstring."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from importlib.metadata import version

    from conceptguard.testing import Case, TextCase
    from conceptguard.testing.matrix import Cell, probe

    host, target = sys.argv[1:]
    cases: dict[str, Case | TextCase] = {
        "spm": Case({"method": "spm", "artifact": "emoji-sd/spm/cigarette"}, opens="a cigarette, noto style"),
        "sld": Case({"method": "sld", "concept": CONCEPT}, opens="a cigarette, noto style"),
        "guard": TextCase({"method": "guard", "artifact": "authors-lm/guard/forget-authors"}, ASKED, OTHERS),
        "phrases": TextCase({"method": "phrases", "concept": {"name": "place", "prompts": ["Broholm"]}}, ASKED,
                            (OTHERS[0], "Where did Naes Zavald live?\n")),
    }  # fmt: skip
    releases = ", ".join(f"{library} {version(library)}" for library in LIBRARIES)
    rows = []
    for method, case in cases.items():
        cell = Cell(method, host, lambda case=case: case, text=isinstance(case, TextCase))  # type: ignore[misc]
        rows += [{**row, "releases": releases} for row in probe(cell)]
    Path(target).write_text(json.dumps(rows, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    main()
