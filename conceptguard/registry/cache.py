"""Fetched files, kept under their own SHA-256: what is there is what was promised, whoever served it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from conceptguard.errors import ArtifactError
from conceptguard.files.atomic import TEMPORARY, explained, replacing, sha256_file, sweep
from conceptguard.registry.settings import folder_named

DAY_SECONDS = 86400.0


def cache_folder() -> Path:
    """Where fetched files are kept; CONCEPTGUARD_CACHE moves it, and so does `cache` in the settings file."""
    import platformdirs

    return folder_named("cache") or Path(platformdirs.user_cache_dir("conceptguard"))


def keep(root: Path, sha256: str, size: int, where: str, fill: Callable[[IO[bytes]], object]) -> Path:
    """The cached file of this hash and size; `fill` writes it when it is not there, or no longer what it was.

    Raises ArtifactError when what `fill` wrote is something else; then nothing is kept.
    """
    path = root / "blobs" / sha256[:2] / sha256
    sweep(path.parent, DAY_SECONDS)  # what was cut short; a younger one may still be written
    if path.is_file() and path.stat().st_size == size and sha256_file(path) == sha256:
        return path
    with replacing(path) as handle:
        watched = _Hashing(handle)
        fill(watched)  # type: ignore[arg-type]
        if (watched.size, watched.digest.hexdigest()) != (size, sha256):
            raise ArtifactError(
                f"{where}: not what the registry promised (size or SHA-256 differ): nothing kept; try again"
            )
    return path


class _Hashing:
    def __init__(self, handle: IO[bytes]) -> None:
        self.handle, self.digest, self.size = handle, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.handle.write(data)


def place(blob: Path, target: Path) -> None:
    """Put a cached file where it is used: a hard link where the file system has them, else a copy; in one
    step.
    """
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{os.urandom(4).hex()}")
        try:
            try:
                os.link(blob, temporary)
            except OSError:
                shutil.copyfile(blob, temporary)
            os.replace(temporary, target)
        finally:
            # Renaming a link onto another link of the same file does nothing on POSIX and leaves it behind.
            temporary.unlink(missing_ok=True)
