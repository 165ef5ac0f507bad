"""Whose signatures count: the roots that a user said they trust, by the address of the registry.

Kept in the user's own registry folder, one file a registry. A registry that is in here must verify, always: were its
signatures only looked at where they are there, whoever takes them away would have won.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from conceptguard.errors import RegistryError
from conceptguard.files.atomic import explained, read_limited, write_bytes
from conceptguard.registry.places import user_folder
from conceptguard.registry.signed.layout import MAX_ROOT, fingerprint


def trust_folder() -> Path:
    """Where roots are kept; CONCEPTGUARD_HOME moves it with the user's registry."""
    return user_folder() / ".trust"


def normal(address: str | Path) -> str:
    """One way to write an address: without a slash at the end; a folder as its whole path."""
    text = str(address)
    return text.rstrip("/") if "://" in text else str(Path(text).expanduser().resolve())


def _file(address: str) -> Path:
    return trust_folder() / f"{hashlib.sha256(address.encode()).hexdigest()[:40]}.json"


def trusted(address: str | Path) -> bytes | None:
    """The root that is trusted for a registry, or None. Raises RegistryError for a damaged file."""
    path = _file(normal(address))
    return _read(path)["root"].encode() if path.is_file() else None


def _read(path: Path) -> dict[str, str]:
    try:
        fields = json.loads(read_limited(path, 2 * MAX_ROOT))
        good = isinstance(fields, dict) and all(isinstance(fields[key], str) for key in ("address", "root"))
    except (ValueError, KeyError, RecursionError):
        good = False
    if not good:
        raise RegistryError(
            f"{path}: damaged, so that nobody's signatures would count: `conceptguard registry trust` anew"
        )
    return fields  # type: ignore[no-any-return]


def trust(address: str | Path, root: bytes) -> Any:
    """Trust a root for a registry from now on, and return it. Raises RegistryError for what is no root signed by its
    own keys."""
    checked = check_root(root, str(address))
    with explained(trust_folder()):
        write_bytes(_file(normal(address)), json.dumps({"address": normal(address), "root": root.decode()}).encode())
    return checked


def distrust(address: str | Path) -> None:
    """Forget the root of a registry, which is unsigned from then on. Raises RegistryError where there is none."""
    path = _file(normal(address))
    if not path.is_file():
        known = ", ".join(said["address"] for said in all_trusted()) or "none"
        raise RegistryError(f"{address}: no root of it is trusted; trusted are: {known}")
    with explained(path):
        path.unlink()


def all_trusted() -> list[dict[str, str]]:
    """The address and the fingerprint of every trusted root."""
    found = [_read(path) for path in sorted(trust_folder().glob("*.json"))]
    return [{"address": said["address"], "fingerprint": fingerprint(said["root"].encode())} for said in found]


def check_root(data: bytes, where: str) -> Any:
    """A root from bytes, signed by as many of its own keys as it asks for. Raises RegistryError."""
    from tuf.api.metadata import Metadata, Root

    from conceptguard.registry.signed import faults

    with faults.explained(where):
        metadata = Metadata[Root].from_bytes(data)
        if not isinstance(metadata.signed, Root):
            raise ValueError("not a root")
        metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    return metadata.signed
