"""Reading a signed registry: python-tuf's own client over our own fetching, with a memory of what was seen.

Rollback, freeze, mix-and-match and endless data are refused by the client (TUF specification, section 5). Here are the
network, what is kept for use offline, and the time: expiry is judged by the later of now and the latest time that this
registry was read, so that a clock set back brings nothing back.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from conceptguard.errors import RegistryError
from conceptguard.files.atomic import explained, locked, read_limited, write_bytes
from conceptguard.registry.fetch import NotThere, TooLong, Unreachable
from conceptguard.registry.settings import offline
from conceptguard.registry.signed import clock, faults
from conceptguard.registry.signed.layout import (
    MAX_ROOT,
    MAX_ROTATIONS,
    MAX_SNAPSHOT,
    MAX_TARGETS,
    MAX_TIMESTAMP,
    METADATA,
    NOTICES,
)  # fmt: skip
from conceptguard.registry.signed.packaged import signers
from conceptguard.registry.signed.view import Target, View, beside, read_notices

TOTAL_SECONDS = 300.0  # for all metadata together, however many roots a mirror has to offer
_LATEST = "latest"
_STEP_SECONDS = 3600.0  # how far the time must have gone on before it is written down again

Read = Callable[[str, int], bytes]


def open_signed(address: str, root: bytes, read: Read, cache: Path) -> View:
    """The verified view of the registry at ``address``.

    root: the bytes that its user trusts; read(path, limit): gives the bytes of a file below the address, and raises
    NotThere, TooLong or Unreachable; cache: the folder that remembers. Where nobody answers, what was kept is used as
    long as its signatures count. Raises RegistryError.
    """
    home = cache / "trust" / hashlib.sha256(address.encode() + b"\0" + root).hexdigest()[:40]
    with locked(home):
        present = _present(home)
        try:
            if why := offline():
                raise Unreachable(f"{address}: offline ({why})")
            client = _refreshed(address, root, _Fetcher(read), home, present)
        except Unreachable as cause:
            if not (home / METADATA / "timestamp.json").is_file():
                raise RegistryError(f"{cause}; no signatures of it were kept, so it cannot be used offline") from None
            print(f"conceptguard: {cause}; using the signatures kept from before", file=sys.stderr)
            client = _refreshed(address, root, _Kept(home / METADATA), home, present)
        return client.view(address)


def _refreshed(address: str, root: bytes, fetcher: FetcherInterface, home: Path, present: datetime) -> _Client:
    try:
        with faults.explained(address):
            client = _Client(root, fetcher, home / METADATA, present)
            client.refresh()
            return client
    except RegistryError as cause:
        # python-tuf hands on what its fetcher raised as the cause of its own error.
        inner: BaseException | None = cause
        while inner is not None and not isinstance(inner, Unreachable):
            inner = inner.__cause__
        raise (inner or cause) from None
    except OSError as cause:
        with explained(home):
            raise cause


def _present(home: Path) -> datetime:
    """Now, or the latest time at which this registry was read, where that is later."""
    path, now = home / _LATEST, clock.now()
    before = clock.moment(read_limited(path, 40).decode("ascii", "replace")) if path.is_file() else None
    if before is None or (now - before).total_seconds() > _STEP_SECONDS:
        write_bytes(path, clock.written(now).encode())
    return max(now, before or now)


class _Client(Updater):
    """python-tuf's client. It keeps the time, and the metadata that it verified, to itself: here both are shown."""

    def __init__(self, root: bytes, fetcher: FetcherInterface, kept: Path, present: datetime) -> None:
        config = UpdaterConfig(
            max_root_rotations=MAX_ROTATIONS, root_max_length=MAX_ROOT, timestamp_max_length=MAX_TIMESTAMP,
            snapshot_max_length=MAX_SNAPSHOT, targets_max_length=MAX_TARGETS, app_user_agent="conceptguard",
        )  # fmt: skip
        kept.mkdir(parents=True, exist_ok=True)
        super().__init__(str(kept), METADATA, fetcher=fetcher, config=config, bootstrap=root)
        self._trusted_set.reference_time = present

    def view(self, where: str) -> View:
        """What was verified, once it is refreshed."""
        now = self._trusted_set
        with faults.explained(where):
            by = signers(now.root, Targets.type, Metadata.from_bytes(self._load_local_metadata(Targets.type)))
        roles = (now.root, now.timestamp, now.snapshot, now.targets)
        notices = read_notices(now.targets.unrecognized_fields.get(NOTICES), where)
        expires = min(role.expires for role in roles)

        turn = threading.Lock()  # bins are read when they are first asked for, and python-tuf's client is for one

        def target(path: str) -> Target | None:
            with turn, faults.explained(where):
                if isinstance(self._fetcher, _Fetcher):
                    self._fetcher.begin()
                found = self.get_targetinfo(path)
                return None if found is None else Target(found.length, found.hashes["sha256"])

        consistent = bool(now.root.consistent_snapshot)
        return View(where, by, expires, target, notices, consistent, beside(now.targets.targets))


class _Fetcher(FetcherInterface):
    """Our own way to get bytes, with its deadlines, for python-tuf."""

    def __init__(self, read: Read) -> None:
        self.read = read
        self.begin()

    def begin(self) -> None:
        """From now on counts what all of it may take."""
        self.started = time.monotonic()

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """At most so many bytes, in a time that was foreseen."""
        if time.monotonic() - self.started > TOTAL_SECONDS:
            raise DownloadError(f"more than {TOTAL_SECONDS:.0f} s for its metadata")
        try:
            return self.read(url, max_length)
        except NotThere as cause:
            raise DownloadHTTPError(str(cause), cause.code) from cause
        except TooLong as cause:
            raise DownloadLengthMismatchError(str(cause)) from cause
        except RegistryError as cause:
            raise DownloadError(str(cause)) from cause

    def _fetch(self, url: str) -> Any:
        raise NotImplementedError  # only metadata comes this way, and whole


class _Kept(FetcherInterface):
    """What was verified before, in place of a network: no newer root, and the timestamp that there is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """The kept file of this name, which has no version there."""
        name = ".".join(unquote(url).rpartition("/")[2].split(".")[-2:])
        if name == f"{Root.type}.json" or not (self.folder / name).is_file():
            raise DownloadHTTPError(f"{name}: not kept", 404)
        return read_limited(self.folder / name, max_length)

    def _fetch(self, url: str) -> Any:
        raise NotImplementedError
