"""The node pack in a ComfyUI's ``custom_nodes``: a link to the installed one, or a copy where links cannot be made."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConceptGuardError

NAME = "conceptguard"
OLDEST = (0, 3, 64)  # the oldest core that the pack was tried on
MARK = "This folder was put here by `conceptguard comfyui install`."


@dataclass(frozen=True)
class Done:
    """What was done. how: "linked", "copied" or "removed"; core: ComfyUI's version, "" where it cannot be told."""

    pack: Path
    how: str
    core: str
    next: str

    def row(self) -> dict[str, Any]:
        """For a report."""
        return {"pack": str(self.pack), "how": self.how, "core": self.core}


def pack_folder() -> Path:
    """The pack that came with this package. Raises ConceptGuardError where it is missing."""
    spec = importlib.util.find_spec("conceptguard_nodes")
    if spec is None or not spec.submodule_search_locations:
        raise ConceptGuardError("the node pack is not in this installation: install conceptguard again")
    return Path(next(iter(spec.submodule_search_locations)))


def install(path: Path) -> Done:
    """Link the pack, replacing an earlier one. Raises ConceptGuardError for a folder that is no ComfyUI's, a core that
    is too old, and a ``custom_nodes/conceptguard`` that somebody else put there."""
    nodes, core = _nodes_of(path), core_version(path)
    if core and _numbers(core) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConceptGuardError(f"{path} is ComfyUI {core}, and the nodes need {oldest} or newer: update ComfyUI first")
    place = nodes / NAME
    _clear(place)
    try:
        place.symlink_to(pack_folder(), target_is_directory=True)
        how = "linked"
    except OSError:  # where links are for administrators
        shutil.copytree(pack_folder(), place, ignore=shutil.ignore_patterns("__pycache__"))
        (place / MARK_FILE).write_text(MARK + "\n", encoding="utf-8")
        how = "copied"
    restart = (
        f"Restart ComfyUI, and reload its page in the browser. It must run with this Python, which has conceptguard: "
        f"{sys.executable}; else run `pip install conceptguard` with its own."
    )
    again = "" if how == "linked" else " Install again after an update of conceptguard: links cannot be made here."
    return Done(place, how, core, restart + again)


def uninstall(path: Path) -> Done:
    """Remove what ``install`` put there. Raises ConceptGuardError where there is nothing of ours."""
    place = _nodes_of(path) / NAME
    if not place.is_symlink() and not place.exists():
        raise ConceptGuardError(f"{place}: not there, so nothing was removed")
    _clear(place)
    return Done(place, "removed", core_version(path), "Restart ComfyUI.")


MARK_FILE = "INSTALLED"


def _clear(place: Path) -> None:
    """Make room, if what is there is ours."""
    if place.is_symlink():
        place.unlink()
    elif (place / MARK_FILE).is_file():
        shutil.rmtree(place)
    elif place.exists():
        raise ConceptGuardError(
            f"{place} was put there by somebody else (ComfyUI's own manager, perhaps): remove it first"
        )


def _nodes_of(path: Path) -> Path:
    nodes = path.expanduser() / "custom_nodes"
    if not nodes.is_dir():
        raise ConceptGuardError(f"{path} has no custom_nodes folder: give the folder of ComfyUI, with main.py in it")
    return nodes


def core_version(path: Path) -> str:
    """As ``comfyui_version.py`` says, "" for a base directory, which has none."""
    file = path.expanduser() / "comfyui_version.py"
    found = re.search(r'__version__\s*=\s*"([^"]+)"', file.read_text(encoding="utf-8")) if file.is_file() else None
    return found[1] if found else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])
