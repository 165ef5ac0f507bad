"""The registry that ships: its root comes with the program, and nothing is fetched.

Expiry is not asked: what is installed changes with the package alone, and an old release must not end by itself. Nor is
anything remembered, so that an older release may be installed again. All else is checked as for any other registry.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from conceptguard.errors import RegistryError
from conceptguard.files.atomic import read_limited
from conceptguard.registry.signed.layout import (
    MAX_ROOT,
    MAX_ROTATIONS,
    MAX_SNAPSHOT,
    MAX_TARGETS,
    MAX_TIMESTAMP,
    METADATA,
    NOTICES,
    file_name,
    owner,
)  # fmt: skip
from conceptguard.registry.signed.view import Target, View, beside, read_notices

T = TypeVar("T")

MEND = "install the package again; after something of it was made anew, `python -m conceptguard_registry.build.sign`"
PINNED = Path(__file__).with_name("shipped.root.json")


def open_packaged(folder: Path, where: str = "shipped") -> View:
    """The verified view of the folder. Raises RegistryError where something of it is not as it was signed."""
    path = folder / METADATA / file_name("timestamp", None)
    try:
        now = path.stat()
    except OSError:
        raise RegistryError(f"{folder}: its signatures are missing: install the package again") from None
    return _opened(folder, where, (now.st_mtime_ns, now.st_size, now.st_ino))


@lru_cache(maxsize=8)  # once in a process; whoever signs anew writes a new timestamp
def _opened(folder: Path, where: str, _: tuple[int, int, int]) -> View:
    from tuf.api.metadata import Snapshot, Targets, Timestamp

    from conceptguard.registry.signed.faults import explained

    with explained(where):
        root = _newest_root(folder)
        timestamp, _signers = _verified(root, folder, Timestamp, "timestamp", None, MAX_TIMESTAMP)
        expected = timestamp.snapshot_meta
        number = expected.version if root.consistent_snapshot else None
        snapshot, _signers = _verified(root, folder, Snapshot, "snapshot", number, MAX_SNAPSHOT, expected)
        expected = snapshot.meta["targets.json"]
        number = expected.version if root.consistent_snapshot else None
        targets, signers = _verified(root, folder, Targets, "targets", number, MAX_TARGETS, expected)
    listed = {path: Target(file.length, file.hashes["sha256"]) for path, file in targets.targets.items()}
    notices = read_notices(targets.unrecognized_fields.get(NOTICES), where)
    return View(where, signers, None, listed.get, notices, consistent=False, beside=beside(listed), mend=MEND)


def _newest_root(folder: Path) -> Any:
    from tuf.api.metadata import Metadata, Root

    root = Metadata[Root].from_bytes(read_limited(PINNED, MAX_ROOT)).signed
    for number in range(root.version + 1, root.version + 1 + MAX_ROTATIONS):
        path = folder / METADATA / file_name("root", number)
        if not path.is_file():
            break
        data = Metadata[Root].from_bytes(read_limited(path, MAX_ROOT))
        for trusted in (root, data.signed):
            trusted.verify_delegate("root", data.signed_bytes, data.signatures)
        if data.signed.version != number:
            raise RegistryError(f"{path}: says that it is version {data.signed.version}: install the package again")
        root = data.signed
    return root


def _verified(
    root: Any, folder: Path, kind: type[T], role: str, number: int | None, limit: int, expected: Any = None
) -> tuple[T, tuple[str, ...]]:
    """The signed part of a role's metadata, and whose signatures it has."""
    from tuf.api.exceptions import BadVersionNumberError
    from tuf.api.metadata import Metadata

    data = read_limited(folder / METADATA / file_name(role, number), limit)
    if expected is not None:
        expected.verify_length_and_hashes(data)
    metadata = Metadata.from_bytes(data)
    if not isinstance(metadata.signed, kind):
        raise BadVersionNumberError(f"{role}: this is {metadata.signed.type}")
    root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    if expected is not None and expected.version != metadata.signed.version:
        raise BadVersionNumberError(f"{role}: version {metadata.signed.version}, expected {expected.version}")
    return metadata.signed, signers(root, role, metadata)


def signers(root: Any, role: str, metadata: Any) -> tuple[str, ...]:
    """Whose good signatures some metadata has, of those who may sign it."""
    found = root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    return tuple(sorted({owner(key) for key in found.signed.values()}))
