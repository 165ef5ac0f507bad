"""Bytes from far away: never more than was asked for, in a time that was foreseen, from the host that was named."""

from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from conceptguard.errors import RegistryError
from conceptguard.files.atomic import explained

TIMEOUT_SECONDS = 15.0  # without a byte
GRACE_SECONDS = 30.0  # for the first bytes, however slow
BYTES_PER_SECOND = 16 * 1024  # the least from then on, so that every file has its deadline
CHUNK = 1024 * 1024


class Unreachable(RegistryError):
    """The other side did not answer; what is in the cache may still serve."""


class NotThere(RegistryError):
    """The other side has no such file. code: as HTTP counts them."""

    def __init__(self, message: str, code: int = 404) -> None:
        super().__init__(message)
        self.code = code


class TooLong(RegistryError):
    """More bytes than were asked for."""


def fetch(address: str, limit: int, into: IO[bytes] | None = None) -> bytes:
    """Read `address` (http, https, or any scheme that fsspec knows, e.g. `hf://`), at most `limit` bytes.

    With `into`, the bytes are written there and an empty result is returned. Raises RegistryError when there are more
    bytes, or when another host is to be asked; Unreachable when the source does not answer, or too slowly.
    """
    if address.startswith(("http://", "https://")):
        return _fetch_http(address, limit, into)
    import fsspec

    try:
        with fsspec.open(address, "rb") as handle:
            return _drain(handle.read, limit, into, address, lambda size: None)
    except RegistryError:
        raise
    except FileNotFoundError:
        raise NotThere(f"{address}: not there: check the address") from None
    except Exception as cause:  # every file system of fsspec has its own kinds of failure
        raise Unreachable(f"{address}: {_short(cause)}: check the address and the network") from None


def _fetch_http(address: str, limit: int, into: IO[bytes] | None) -> bytes:
    # Not through fsspec: its HTTP file system needs aiohttp and a thread with an event loop, which fork
    # badly.
    request = urllib.request.Request(address, headers={"User-Agent": "conceptguard", "Accept-Encoding": "identity"})
    deadline = _Deadline()
    try:
        with deadline, _opener(deadline).open(request, timeout=TIMEOUT_SECONDS) as answer:
            data = _drain(answer.read1, limit, into, address, deadline.got)
            if deadline.passed:  # an answer without a length looks whole when it is cut
                raise TimeoutError
            if answer.length:  # the server said that there would be more
                raise Unreachable(f"{address}: ended {answer.length:,} bytes early: try again")
            return data
    except (RegistryError, urllib.error.HTTPError) as cause:
        if deadline.passed:
            raise Unreachable(deadline.message(address)) from None
        if isinstance(cause, RegistryError):
            raise
        if cause.code >= 500:
            raise Unreachable(f"{address}: the server answered {cause.code}: try again later") from None
        raise NotThere(f"{address}: the server answered {cause.code}: check the address", cause.code) from None
    except Exception as cause:  # http.client raises its own kinds for answers that are not HTTP
        if deadline.passed:
            raise Unreachable(deadline.message(address)) from None
        if isinstance(cause, (OSError, ValueError)):
            raise Unreachable(f"{address}: {_short(cause)}: check the address and the network") from None
        raise Unreachable(f"{address}: not a proper answer ({_short(cause)}): check the address") from None


class _Deadline:
    """Ends the connections that were opened under it when less has come than could have.

    A socket's own timeout starts anew with every byte, and a head of one byte a second never ends.
    """

    def __init__(self) -> None:
        self.started, self.size, self.passed = time.monotonic(), 0, False
        self.sockets: list[socket.socket] = []
        self._done = threading.Event()

    def got(self, size: int) -> None:
        """So many bytes have come, in all."""
        self.size = size

    def __enter__(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _left(self) -> float:
        return self.started + GRACE_SECONDS + self.size / BYTES_PER_SECOND - time.monotonic()

    def _watch(self) -> None:
        while (left := self._left()) > 0:
            if self._done.wait(left):
                return
        self.passed = True
        for one in self.sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed by now

    def message(self, address: str) -> str:
        """What to say when it has passed."""
        seconds = time.monotonic() - self.started
        return f"{address}: too slow ({self.size:,} bytes in {seconds:.0f} s): try again later, or another mirror"


def _opener(deadline: _Deadline) -> urllib.request.OpenerDirector:
    """urllib's own, whose connections are watched and which asks no other host."""

    def watched(kind: type[http.client.HTTPConnection]) -> Callable[..., http.client.HTTPConnection]:
        def connection(*args: Any, **options: Any) -> http.client.HTTPConnection:
            made = kind(*args, **options)
            connect = made.connect

            def noted() -> None:
                connect()
                deadline.sockets.append(made.sock)

            made.connect = noted  # type: ignore[method-assign]
            return made

        return connection

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(watched(http.client.HTTPConnection), req)  # type: ignore[arg-type]

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(watched(http.client.HTTPSConnection), req)  # type: ignore[arg-type]

    return urllib.request.build_opener(Http, Https, _SameHost)


class _SameHost(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if old.scheme == "https" and new.scheme != "https":
            raise RegistryError(f"{req.full_url}: redirected away from https: ask who keeps the registry")
        ports = {"http": 80, "https": 443}
        same_port = (old.port or ports[old.scheme]) == (new.port or ports.get(new.scheme))
        upgraded = (old.scheme, new.scheme) == ("http", "https") and old.port is None and new.port is None
        if old.hostname != new.hostname or not (same_port or upgraded):
            raise RegistryError(
                f"{req.full_url}: redirected to another host ({new.scheme}://{new.netloc[:100]}), which was not named: "
                "not followed; give that address if it is where the registry lives"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _drain(
    read: Callable[[int], bytes], limit: int, into: IO[bytes] | None, address: str, got: Callable[[int], None]
) -> bytes:
    pieces: list[bytes] = []
    total = 0
    while piece := read(min(CHUNK, limit + 1 - total)):
        total += len(piece)
        got(total)
        if total > limit:
            raise TooLong(
                f"{address}: more than the {limit:,} bytes expected: nothing kept; ask who keeps the registry"
            )
        if into is None:
            pieces.append(piece)
        else:
            # Here, since a full disk is none of the network's doing.
            with explained(Path(getattr(into, "name", "the cache"))):
                into.write(piece)
    return b"".join(pieces)


def _short(cause: BaseException) -> str:
    return " ".join(str(getattr(cause, "reason", cause)).split())[:160] or type(cause).__name__
