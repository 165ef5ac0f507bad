"""The view of a registry, where its root is trusted: of a folder, of an address, of the one that ships."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from conceptguard.errors import RegistryError
from conceptguard.files.atomic import read_limited
from conceptguard.registry.cache import cache_folder
from conceptguard.registry.fetch import NotThere, TooLong, fetch
from conceptguard.registry.signed.layout import METADATA
from conceptguard.registry.signed.roots import normal, trusted
from conceptguard.registry.signed.view import View


def view_of_folder(folder: Path, *, packaged: bool = False, name: str = "") -> View | None:
    """What is signed in a folder; None where nobody's signature counts. Raises RegistryError where it must verify, and
    does not.

    packaged: it came with this package, and so did its root. A folder is verified once in a process, and again when it
    is signed anew.
    """
    if packaged:
        from conceptguard.registry.signed.packaged import open_packaged

        return open_packaged(folder, name) if folder.is_dir() else None
    root = trusted(folder)
    if root is None:
        return None
    path = folder / METADATA / "timestamp.json"
    now = path.stat() if path.is_file() else None
    stamp = (now.st_mtime_ns, now.st_size, now.st_ino) if now else ()
    return _opened(normal(folder), root, cache_folder(), stamp)


@lru_cache(maxsize=64)
def _opened(folder: str, root: bytes, cache: Path, _: tuple[int, ...]) -> View:
    from conceptguard.registry.signed.client import open_signed

    return open_signed(folder, root, _reading(Path(folder)), cache)


def _reading(folder: Path) -> Callable[[str, int], bytes]:
    def read(path: str, limit: int) -> bytes:
        if not (folder / path).is_file():
            raise NotThere(f"{folder / path}: not there")
        if (folder / path).stat().st_size > limit:
            raise TooLong(f"{folder / path}: more than {limit:,} bytes")
        return read_limited(folder / path, limit)

    return read


def view_of_address(address: str, cache: Path) -> View | None:
    """The same for an address, asked anew at every call."""
    root = trusted(address)
    if root is None:
        return None
    from conceptguard.registry.signed.client import open_signed

    return open_signed(address, root, lambda path, limit: fetch(f"{address}/{path}", limit), cache)


def has_metadata(folder: Path) -> bool:
    """Whether somebody signed a folder, whoever that was."""
    return (folder / METADATA / "timestamp.json").is_file()


def said_of(view: View | None, ref: str, sha256: str) -> str:
    """What lists say of an artifact: whose signature it has, that it is unsigned, or why it counts no longer."""
    from conceptguard.registry.signed.view import standing

    if view is None:
        return UNSIGNED
    try:
        known = view.knows(ref, sha256)
    except RegistryError:
        known = False
    return standing(view.notices.get(ref), sha256) or (view.signed_by if known else UNSIGNED)


UNSIGNED = "unsigned"
