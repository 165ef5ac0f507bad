"""Bytes from far away, never more than was asked for, and nothing but bytes."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import IO

from conceptguard.errors import RegistryError

TIMEOUT_SECONDS = 15.0
CHUNK = 1024 * 1024


class Unreachable(RegistryError):
    """The other side did not answer; what is in the cache may still serve."""


def fetch(address: str, limit: int, into: IO[bytes] | None = None) -> bytes:
    """Read `address` (http, https, or any scheme that fsspec knows, e.g. `hf://`), at most `limit` bytes.

    With `into`, the bytes are written there and an empty result is returned. Raises RegistryError when there
    are more bytes, Unreachable when the source does not answer.
    """
    if address.startswith(("http://", "https://")):
        return _fetch_http(address, limit, into)
    import fsspec

    try:
        with fsspec.open(address, "rb") as handle:
            return _drain(handle, limit, into, address)
    except RegistryError:
        raise
    except Exception as cause:  # every file system of fsspec has its own kinds of failure
        raise Unreachable(f"{address}: {_short(cause)}: check the address and the network") from None


def _fetch_http(address: str, limit: int, into: IO[bytes] | None) -> bytes:
    # Not through fsspec: its HTTP file system needs aiohttp and a thread with an event loop, which fork
    # badly.
    request = urllib.request.Request(address, headers={"User-Agent": "conceptguard", "Accept-Encoding": "identity"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            if address.startswith("https://") and not answer.geturl().startswith("https://"):
                raise RegistryError(f"{address}: redirected away from https: ask who keeps the registry")
            return _drain(answer, limit, into, address)
    except urllib.error.HTTPError as cause:
        if cause.code >= 500:
            raise Unreachable(f"{address}: the server answered {cause.code}: try again later") from None
        raise RegistryError(f"{address}: the server answered {cause.code}: check the address") from None
    except RegistryError:
        raise
    except (OSError, ValueError) as cause:
        raise Unreachable(f"{address}: {_short(cause)}: check the address and the network") from None
    except Exception as cause:  # http.client raises its own kinds for answers that are not HTTP
        raise Unreachable(f"{address}: not a proper answer ({_short(cause)}): check the address") from None


def _drain(handle: IO[bytes], limit: int, into: IO[bytes] | None, address: str) -> bytes:
    pieces: list[bytes] = []
    total = 0
    while piece := handle.read(min(CHUNK, limit + 1 - total)):
        total += len(piece)
        if total > limit:
            raise RegistryError(
                f"{address}: more than the {limit:,} bytes expected: nothing kept; ask who keeps the registry"
            )
        if into is None:
            pieces.append(piece)
        else:
            into.write(piece)
    return b"".join(pieces)


def _short(cause: BaseException) -> str:
    return " ".join(str(getattr(cause, "reason", cause)).split())[:160] or type(cause).__name__
