"""Writing the index of a registry folder: one file for a few artifacts, shards for many; whole at any moment.

Shards are written first, under the hashes of their content, and `index.json` then names them in one step. Those that
the index before named stay until the next change, for who is reading them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from conceptguard.errors import ConceptGuardError, RegistryError
from conceptguard.files.atomic import explained, locked, read_limited, sweep, write_bytes
from conceptguard.files.paths import INDEX, MANIFEST, MAX_INDEX
from conceptguard.registry import shards
from conceptguard.registry.index import Entry, entry_of, index_bytes, index_fields, index_of, next_serial
from conceptguard.registry.patience import patiently
from conceptguard.registry.shards import Shard, Shards


def read_whole(data: bytes, source: str) -> list[Entry] | Shards:
    """What the bytes of an `index.json` hold: entries, or the shards that list them. Raises RegistryError."""
    fields = index_fields(data, source)
    if fields["schema"] == shards.SCHEMA:
        return shards.shards_of(fields, source)
    return index_of(fields, source).entries


def write_index(root: Path, entries: Iterable[Entry]) -> None:
    """Write the index of a registry folder, with the lock in hand. Raises RegistryError."""
    older, listed = _older(root), list(entries)
    if len(listed) <= shards.FEW:
        _replace(root, index_bytes(listed, older), older)
        return
    parts = shards.split(listed, shards.how_many(len(listed)))
    _write_root(root, [_write_shard(root, part) for part in parts], len(listed), older)


def change_index(root: Path, entry: Entry | None, drop: str = "") -> None:
    """List one entry anew, or no longer list one, with the lock in hand. Raises RegistryError."""
    older, ref = _older(root), entry.ref if entry else drop
    # Only what is read may be wrong and made anew from the folders; what cannot be written is an error.
    try:
        listed = read_whole(older, str(root)) if older else scan(root)[0]
        part = read_part(root, listed, listed.number(ref)) if isinstance(listed, Shards) else []
    except RegistryError:
        listed = scan(root)[0]
    if isinstance(listed, Shards):
        number, kept = listed.number(ref), _changed(part, ref, entry)
        count = listed.total + len(kept) - len(part)
        if shards.FEW < count <= 2 * shards.PER_SHARD * len(listed.shards):
            new = [*listed.shards[:number], _write_shard(root, kept), *listed.shards[number + 1 :]]
            _write_root(root, new, count, older)
            return
        try:
            listed = [one for n in range(len(listed.shards)) for one in read_part(root, listed, n)]
        except RegistryError:
            listed = scan(root)[0]
    write_index(root, _changed(listed, ref, entry))


def _changed(entries: Iterable[Entry], ref: str, entry: Entry | None) -> list[Entry]:
    kept = [one for one in entries if one.ref != ref]
    return [*kept, entry] if entry else kept


def read_part(root: Path, listed: Shards, number: int, source: str = "") -> list[Entry]:
    """The entries of one shard of a registry folder. Raises RegistryError."""
    shard = listed.shards[number]
    return shards.read_shard(read_limited(root / shard.path, shard.size), listed, number, source or str(root))


def _older(root: Path) -> bytes | None:
    """The index that is there, if it can be read."""
    try:
        return read_limited(root / INDEX, MAX_INDEX) if (root / INDEX).is_file() else None
    except RegistryError:
        return None


def _write_shard(root: Path, entries: Iterable[Entry]) -> Shard:
    data = shards.shard_bytes(entries)
    shard = Shard(hashlib.sha256(data).hexdigest(), len(data))
    path = root / shard.path
    # One that a killed writer left is whole, but perhaps not the one of this name.
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != shard.sha256:
        write_bytes(path, data)
    return shard


def _write_root(root: Path, new: Sequence[Shard], count: int, older: bytes | None) -> None:
    try:
        listed = read_whole(older, str(root)) if older else None
    except RegistryError:
        listed = None
    if isinstance(listed, Shards) and (listed.shards, listed.total) == (tuple(new), count):
        return
    _replace(root, shards.root_bytes(new, count, next_serial((older or b"")[:1000])), older)


def _replace(root: Path, data: bytes, older: bytes | None) -> None:
    """The new index in the old one's place, and away with shards that neither of the two names."""
    if data != older:
        write_bytes(root / INDEX, data)
    named: set[str] = set()
    for one in (data, older):
        try:
            listed = read_whole(one, str(root)) if one else None
        except RegistryError:
            continue
        if isinstance(listed, Shards):
            named |= {shard.path for shard in listed.shards}
    with explained(root / shards.FOLDER):
        sweep(root / shards.FOLDER)
        for path in (root / shards.FOLDER).glob("*.json"):
            if f"{shards.FOLDER}/{path.name}" not in named:
                path.unlink(missing_ok=True)


def scan(root: Path, source: str = "") -> tuple[list[Entry], list[tuple[str, str]]]:
    """Every artifact folder under `root`: the good entries, and (reference, message) of the others."""
    good: list[Entry] = []
    bad: list[tuple[str, str]] = []
    paths = sorted(root.glob(f"*/*/*/{MANIFEST}"))
    for path in patiently(paths, len(paths), "reading manifests"):
        ref = path.parent.relative_to(root).as_posix()
        try:
            entry = entry_of(path.parent, source)
            if entry.ref != ref:
                raise RegistryError(
                    f"{path}: speaks of {entry.ref!r} but lies in {ref!r}: move it with `conceptguard add`"
                )
        except ConceptGuardError as cause:
            bad.append((ref, str(cause)))
        else:
            good.append(entry)
    return good, bad


def rebuild_index(root: Path | str) -> list[Entry]:
    """Scan a registry folder and write its index anew. Raises RegistryError naming the first bad artifact."""
    root = Path(root)
    with locked(root):
        good, bad = scan(root)
        if bad:
            raise RegistryError(f"{bad[0][1]} (the index was left as it was)")
        write_index(root, good)
    return good
