"""What lies beside the artifacts of a registry: policies, suites and models, which are signed file by file.

Checked is what lies on the disk, just before somebody reads it there: other libraries open a model's files by
themselves. So whoever can write to a folder *while* it is read is not held off, as they are from artifacts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conceptguard.errors import ConceptGuardError, RegistryError
from conceptguard.files.atomic import sha256_file
from conceptguard.registry.places import shipped_folder
from conceptguard.registry.signed.layout import BESIDE
from conceptguard.registry.signed.sources import view_of_folder
from conceptguard.registry.signed.view import View

# What was found to be as it was signed, until a file of it changes: a model that is loaded twice is hashed once.
_found: dict[tuple[Path, str], tuple[View, tuple[Any, ...]]] = {}


def files_beside(folder: Path, *places: str) -> Iterator[str]:
    """Paths below a registry's folder, without hidden ones: of some of its policies, suites and models, or of all."""
    for place in places or BESIDE:
        if (folder / place).is_file():
            yield place
        for parent, folders, names in os.walk(folder / place):
            # A link to a folder is not gone into: it is told like a file, which nobody signed.
            links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
            folders[:] = [name for name in folders if not (name.startswith(".") or name == "__pycache__")]
            for name in names + links:
                if not name.startswith("."):
                    yield Path(parent, name).relative_to(folder).as_posix()


def vouch(view: View, folder: Path, place: str, error: type[ConceptGuardError] = RegistryError) -> None:
    """Check that a policy, a suite or a model is what was signed: every file, none missing and none more.

    place: its path in the registry, such as ``models/emoji-sd``. Raises ``error``, which names the file.
    """
    try:
        view.check_time()
        _check(view, folder, place)
    except RegistryError as cause:
        raise error(str(cause)) from None


def _check(view: View, folder: Path, place: str) -> None:
    there = set(files_beside(folder, place))
    signed = {path for path in view.beside if path == place or path.startswith(f"{place}/")}
    if there and not signed:
        raise RegistryError(
            f"{folder / place}: {view.signed_by} did not sign it with the rest of {view.where}: if it is yours, give "
            f"its path; otherwise {view.mend}"
        )
    now = tuple((path, _state(folder / path)) for path in sorted(there))
    known = _found.get((folder, place))
    if known is not None and known[0] is view and known[1] == now:
        return
    for path in sorted(signed | there):
        target = view.target(path)
        if path not in there:
            why = "is missing"
        elif target is None:
            why = "is none of the files"
        elif target == ((folder / path).stat().st_size, sha256_file(folder / path)):
            continue
        else:
            why = "is not what it was"
        raise RegistryError(f"{folder / path}: {why} when {view.signed_by} signed {place} in {view.where}: {view.mend}")
    _found[folder, place] = view, now


def _state(path: Path) -> tuple[int, ...]:
    one = path.stat()
    return one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino


def shipped(place: str, error: type[ConceptGuardError] = RegistryError) -> Path:
    """Where a policy, a suite or a model of the shipped registry is, once it was found to be what was signed.

    Whether there is such a thing at all, its reader says. Raises ``error``, which names the file that is another.
    """
    folder = shipped_folder()
    try:
        view = view_of_folder(folder, packaged=True, name="shipped")
    except RegistryError as cause:
        raise error(str(cause)) from None
    if view is not None:
        vouch(view, folder, place, error)
    return folder / place


def rows(view: View, folder: Path, source: str, *places: str) -> Iterator[dict[str, Any]]:
    """A row for each of some policies, suites and models of a signed folder, or of all, as `Registry.verify` gives."""
    found = {"/".join(path.split("/")[:2]) for path in (*files_beside(folder), *view.beside)}
    for place in sorted(found if not places else found.intersection(places)):
        row: dict[str, Any] = {"ref": place, "source": source, "ok": True, "why": "", "signed": "", "bytes": 0,
                               "files": 0}  # fmt: skip
        try:
            vouch(view, folder, place)
            sizes = [(folder / path).stat().st_size for path in files_beside(folder, place)]
            row |= {"signed": view.signed_by, "bytes": sum(sizes), "files": len(sizes)}
        except ConceptGuardError as cause:
            row |= {"ok": False, "why": str(cause)}
        yield row
