"""What python-tuf refuses, in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME, SigstoreKey
from tuf.api import exceptions
from tuf.api.serialization import DeserializationError

from conceptguard.errors import RegistryError

# Otherwise a root that names an identity of sigstore's cannot even be read.
KEY_FOR_TYPE_AND_SCHEME.setdefault((SigstoreKey.DEFAULT_KEY_TYPE, SigstoreKey.DEFAULT_SCHEME), SigstoreKey)

# The first that fits, most particular first.
_SAID: list[tuple[type[Exception], str]] = [
    (
        exceptions.ExpiredMetadataError,
        "its signatures have expired: a mirror holds back what is new, or its keeper must sign anew: try another one",
    ),
    (
        exceptions.BadVersionNumberError,
        "offers older signed metadata than it did before: not used; ask its keeper, or try another mirror",
    ),
    (
        exceptions.UnsignedMetadataError,
        "not signed by enough of the keys that you trust: not used; if its keeper began anew, `conceptguard registry "
        "trust` it again",
    ),
    (
        exceptions.LengthOrHashMismatchError,
        "its metadata does not belong together (parts of several versions, or altered): not used; try again, or "
        "another mirror",
    ),
    (exceptions.DownloadLengthMismatchError, "sends more than was signed or allowed: not used; try another mirror"),
    (exceptions.DownloadHTTPError, "metadata is missing: check the address, or ask its keeper"),
    (DeserializationError, "its metadata cannot be read: not used; ask who keeps the registry"),
    (exceptions.RepositoryError, "its metadata does not belong together: not used; ask who keeps the registry"),
]


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Raises RegistryError, with what to do, for what python-tuf refuses of the registry at ``where``."""
    try:
        yield
    except (exceptions.RepositoryError, exceptions.DownloadError, DeserializationError) as cause:
        told = next((text for kind, text in _SAID if isinstance(cause, kind)), "signed metadata cannot be fetched")
        detail = " ".join(str(cause).split())[:160]
        raise RegistryError(f"{where}: {told} ({detail})") from cause
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise RegistryError(f"{where}: its metadata cannot be read ({type(cause).__name__}): not used") from cause
