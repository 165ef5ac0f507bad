"""What a remote registry has shown before, so that it cannot go back to what was replaced.

Kept beside the index in the cache: the index's serial, and of every artifact that was fetched its version, the hash of
its manifest and those of the manifests before it. Who never asked before cannot tell: that takes signatures.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptguard.errors import RegistryError
from conceptguard.files.atomic import locked, read_limited, write_bytes

if TYPE_CHECKING:
    from conceptguard.registry.index import Entry

_MAX_SEEN = 64 * 1024 * 1024
_NUMBERED = re.compile(r"v?\d{1,9}(\.\d{1,9})*\Z")


class Seen:
    """The memory of one registry, in ``path``."""

    def __init__(self, path: Path, address: str) -> None:
        self.path, self.address = path, address

    def check_serial(self, serial: int) -> None:
        """Raises RegistryError for an index that is older than one read before."""
        before = self._read().get("serial", 0)
        if serial < before:
            raise RegistryError(
                f"{self.address}: offers an older index (serial {serial}) than it did before ({before}): not used; if "
                f"its keeper began anew, delete {self.path}"
            )

    def note_serial(self, serial: int) -> None:
        """Remember the serial of an index that was read."""
        if serial > self._read().get("serial", 0):
            self._change(lambda fields: fields.update(serial=serial))

    def check(self, entry: Entry) -> None:
        """Raises RegistryError for an artifact that was replaced by a newer one, as far as this cache knows."""
        known = self._read().get("pulled", {}).get(entry.ref)
        if not known or entry.sha256 == known["sha256"]:
            return
        if entry.sha256 in known["older"] or _older(entry.version, known["version"]):
            raise RegistryError(
                f"{self.address}: offers {entry.ref} in an older version ({entry.version}) than was fetched before "
                f"({known['version']}): not used; if its keeper took the newer one back, delete {self.path}"
            )

    def note(self, entry: Entry) -> None:
        """Remember an artifact that was fetched and found good."""

        def add(fields: dict[str, Any]) -> None:
            pulled = fields.setdefault("pulled", {})
            known = pulled.get(entry.ref)
            older = [] if known is None else [*known["older"], known["sha256"]]
            pulled[entry.ref] = {"version": entry.version, "sha256": entry.sha256, "older": older}

        known = self._read().get("pulled", {}).get(entry.ref)
        if known is None or known["sha256"] != entry.sha256:
            self._change(add)

    def _change(self, change: Any) -> None:
        with locked(self.path.parent):
            fields = self._read()
            change(fields)
            write_bytes(self.path, json.dumps(fields).encode())

    def _read(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {}
        try:
            fields = json.loads(read_limited(self.path, _MAX_SEEN))
            good = isinstance(fields, dict) and type(fields.get("serial", 0)) is int
            for known in fields.get("pulled", {}).values():
                good = good and isinstance(known["older"], list) and isinstance(known["sha256"], str)
                good = good and isinstance(known["version"], str)
        except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
            good = False
        if not good:
            raise RegistryError(f"{self.path}: damaged, so that older versions could not be told: delete it")
        return fields  # type: ignore[no-any-return]


def _older(one: str, other: str) -> bool:
    """Whether a version comes before another; False where they are no plain numbers."""
    if not _NUMBERED.match(one) or not _NUMBERED.match(other):
        return False
    numbers = [[int(part) for part in text.lstrip("v").split(".")] for text in (one, other)]
    width = max(len(parts) for parts in numbers)
    first, second = (parts + [0] * (width - len(parts)) for parts in numbers)
    return first < second
