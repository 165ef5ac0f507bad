"""Writing so that a reader sees the old file or the new one, never a part, and reading no more than was
promised.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from conceptguard.errors import ConceptGuardError, RegistryError

CHUNK = 1024 * 1024
LOCK = ".lock"
LOCK_SECONDS = 60.0
TEMPORARY = ".new-"

_ADVICE = {
    "make room for it": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "a file stands where a folder belongs, or the other way round: move it away": (
        errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY,
    ),
}  # fmt: skip


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raises RegistryError, with what to do, where the file system refuses something about ``path``."""
    try:
        yield
    except OSError as cause:
        raise _refused(path, cause) from None


def _refused(path: Path, cause: OSError) -> RegistryError:
    advice = next((text for text, numbers in _ADVICE.items() if cause.errno in numbers), "")
    advice = advice or "choose a folder that you may write to (CONCEPTGUARD_HOME and CONCEPTGUARD_CACHE move theirs)"
    return RegistryError(f"{path}: cannot be written ({cause.strerror or type(cause).__name__}): {advice}")


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes `path`'s place when the block ends well and vanishes when it does not.

    Raises RegistryError where it cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` at once."""
    with replacing(path) as handle:
        handle.write(data)


def sweep(folder: Path, seconds: float = 0.0) -> None:
    """Delete what killed writers left in `folder`, and below, at least so long ago. For who holds the folder's lock, or
    long after.
    """
    for left in folder.rglob(f"{TEMPORARY}*"):
        try:
            if seconds and time.time() - left.stat().st_mtime < seconds:
                continue
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        except OSError:
            continue  # in use by somebody else, or gone


def read_limited(path: Path, limit: int, error: type[ConceptGuardError] = RegistryError) -> bytes:
    """The whole file, or `error` when it is longer than `limit` bytes; no more than `limit` + 1 bytes are
    read.
    """
    try:
        with open(path, "rb") as handle:
            data = handle.read(limit + 1)
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror}): check the path and its permissions") from None
    if len(data) > limit:
        raise error(f"{path}: larger than {limit:,} bytes: not what it claims to be; fetch it again")
    return data


def read_whole(path: Path, size: int, error: type[ConceptGuardError] = RegistryError) -> bytearray:
    """A file of `size` bytes in a buffer that may be kept and written to, so that nobody copies it; shorter where the
    file is, and one byte longer where that is.
    """
    data = bytearray(size)
    try:
        with open(path, "rb", buffering=0) as handle, memoryview(data) as rest:
            done = 0
            while done < size and (got := handle.readinto(rest[done:])):
                done += got
            more = handle.read(1) if done == size else b""
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror}): check the path and its permissions") from None
    del data[done:]
    return data + more if more else data


def sha256_file(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while piece := handle.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time in `folder`, between processes and between threads."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=LOCK_SECONDS)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RegistryError(
            f"{folder}: locked by another process for {LOCK_SECONDS:.0f} s: wait for it, or end it"
        ) from None
    except OSError as cause:
        raise _refused(folder, cause) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def waiting(folder: Path) -> Iterator[None]:
    """For a reader: wait until nobody writes in `folder`. Where it may not lock, nobody like it writes either."""
    if not os.access(folder / LOCK, os.W_OK):
        yield
        return
    with locked(folder):
        yield
