"""Which names and files may be touched at all: the rest of the registry trusts only what passed here."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from pathlib import Path

from conceptguard.errors import ArtifactError, ConceptGuardError

MANIFEST = "artifact.yaml"
INDEX = "index.json"
MAX_MANIFEST = 256 * 1024
MAX_INDEX = 128 * 1024 * 1024
MAX_HEADER = 16 * 1024 * 1024
MAX_FILE = 32 * 1024**3

SUFFIXES = {".safetensors", ".yaml", ".json", ".png", ".md"}
PICKLES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib", ".npy", ".npz"}

NAME = r"[a-z0-9](?:[a-z0-9_-]|\.(?!\.)){0,98}[a-z0-9]|[a-z0-9]"
_NAME = re.compile(rf"(?:{NAME})\Z")
_PART = re.compile(r"[A-Za-z0-9_(\[][A-Za-z0-9 _.,+=@~()\[\]-]{0,120}\Z")
# Windows takes these for devices whatever the extension.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?\Z", re.IGNORECASE)


def is_name(text: str) -> bool:
    """True for what may be one step of a reference: lower-case letters, digits, `-`, `_`, `.`, at most 100 of
    them.
    """
    return bool(_NAME.match(text)) and not _DEVICES.match(text)


def is_ref(text: str) -> bool:
    """True for `family/method/name`."""
    parts = text.split("/")
    return len(parts) == 3 and all(is_name(part) for part in parts)


def slug(text: str) -> str:
    """A name made from free text: "Van Gogh" gives `van-gogh`. Empty when nothing usable is left."""
    cleaned = re.sub(r"[^a-z0-9._]+", "-", text.lower())
    cleaned = re.sub(r"\.{2,}", ".", cleaned)[:100].strip("-._")
    return cleaned if cleaned and is_name(cleaned) else ""


def pickle_message(name: str) -> str:
    """What to say about a pickle: it is never opened, not even to look."""
    return (
        f"{name}: a pickle, which can run code when it is opened; only safetensors are read here: "
        "convert it in a sandbox (torch.load(..., weights_only=True), then safetensors.torch.save_file)"
    )


def check_relative(path: str, error: type[ConceptGuardError] = ArtifactError) -> str:
    """Return `path` if it names a file inside a folder on every system; raise `error` otherwise."""
    suffix = posixpath.splitext(path)[1].lower()
    if suffix in PICKLES:
        raise error(pickle_message(path))
    parts = path.split("/")
    inside = all(_PART.match(p) and not p.endswith((".", " ")) and not _DEVICES.match(p) for p in parts)
    if not inside or len(parts) > 4:
        raise error(f"{path[:120]!r}: not a plain relative path: use letters, digits, '-', '_', '.' and '/' only")
    if suffix not in SUFFIXES:
        kinds = " ".join(sorted(SUFFIXES))
        raise error(f"{path[:120]!r}: a kind of file that is not read here: keep to {kinds}")
    return path


def leads_out(folder: Path, relative: str) -> bool:
    """Whether a link on the way from `folder` to what is at `relative` leads elsewhere. No step may be `..`."""
    place = str(folder)
    for step in relative.split("/"):
        place = f"{place}{os.sep}{step}"
        try:
            found = os.lstat(place)
        except (OSError, ValueError):
            return False  # nothing is there, behind steps that are no links
        plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
        if not plain or getattr(found, "st_reparse_tag", False):  # a junction of Windows says that it is a folder
            # Resolving a path asks for every folder above it as well, which few paths need.
            home, real = os.path.realpath(folder), os.path.realpath(folder / relative)
            return os.path.commonpath([home, real]) != home
    return False


def inside(folder: Path, relative: str, error: type[ConceptGuardError] = ArtifactError) -> Path:
    """The regular file `relative` in `folder`; raises `error` when it is missing, special, or leads out by a
    link.
    """
    path = folder / check_relative(relative, error)
    if leads_out(folder, relative):
        raise error(f"{path}: a link that leads out of its folder: put the file itself there")
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        raise error(f"{path}: missing: fetch or make the artifact again") from None
    if not stat.S_ISREG(mode):
        raise error(f"{path}: not a regular file: put the file itself there")
    return path
