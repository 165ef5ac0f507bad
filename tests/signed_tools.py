"""Signed registries for tests: made, served by a mirror that may lie, and read at a time that the test sets."""

from __future__ import annotations

import contextlib
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from registry_tools import make

from conceptguard.registry.local import LocalSource
from conceptguard.registry.remote import RemoteSource
from conceptguard.registry.signed import clock, publish, roots

WINE, CIGARETTE = "tiny/spm/wine", "tiny/spm/cigarette"
DAY = timedelta(days=1)


class Clock:
    """A time that stands still until a test sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = clock.moment("2026-12-01")
        monkeypatch.setattr(clock, "now", lambda: self.time)

    def on(self, days: float) -> datetime:
        self.time += days * DAY
        return self.time


class Keeper:
    """A registry of two artifacts, its keys, and what its keeper does."""

    def __init__(self, home: Path, **options: Any) -> None:
        self.home, self.folder, self.keys = home, home / "registry", home / "keys"
        for number, name in enumerate(("cigarette", "wine")):
            self.add(name, number + 1)
        self.first = publish.init(self.folder, self.keys, owner="Ann", **options)
        self.root = (self.folder / "metadata" / "1.root.json").read_bytes()

    def add(self, name: str, seed: float, **changes: Any) -> None:
        shutil.rmtree(self.home / "made", ignore_errors=True)
        LocalSource(self.folder).add(make(self.home / "made", name, seed, **changes))

    def sign(self) -> publish.Signed:
        return publish.sign(self.folder, [self.keys])

    def copied(self, name: str) -> Path:
        """The registry as it is now, for a mirror that goes back to it."""
        shutil.copytree(self.folder, self.home / name)
        return self.home / name


class Mirror:
    """A server of files in folders, the first that has one. answer: may give other bytes for a path; asked: paths."""

    def __init__(self, *folders: Path) -> None:
        self.folders = list(folders)
        self.answer: Callable[[str], bytes | Iterator[bytes] | None] = lambda path: None
        self.asked: list[str] = []
        self.address = ""

    def found(self, path: str) -> bytes | Iterator[bytes] | None:
        told = self.answer(path)
        if told is not None:
            return told
        return next((f.read_bytes() for one in self.folders if (f := one / path.lstrip("/")).is_file()), None)


@contextlib.contextmanager
def mirrored(mirror: Mirror) -> Iterator[Mirror]:
    """The mirror at work on 127.0.0.1."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.asked.append(self.path)
            found = mirror.found(self.path)
            self.send_response(404 if found is None else 200)
            if isinstance(found, bytes):
                self.send_header("Content-Length", str(len(found)))
            self.end_headers()
            with contextlib.suppress(OSError):
                for piece in [found or b""] if isinstance(found, bytes) or found is None else found:
                    self.wfile.write(piece)

        def log_message(self, *_: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    mirror.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class Reader:
    """Somebody who trusts the registry's first root, and reads it from a mirror."""

    def __init__(self, keeper: Keeper, mirror: Mirror, cache: Path) -> None:
        self.mirror, self.cache = mirror, cache
        roots.trust(mirror.address, keeper.root)

    def source(self) -> RemoteSource:
        """As a new process sees it."""
        return RemoteSource(self.mirror.address, self.cache)

    def load(self, ref: str = WINE) -> Any:
        return self.source().load(ref)
