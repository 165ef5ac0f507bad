"""The index of a large registry: `index.json` names shards, each an index of its own in a file named by its SHA-256.

Which shard lists a reference is told by the hash of the reference, so that resolving one reads one of them, a change
writes one of them, and who vouches for `index.json` vouches for every entry.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from conceptguard.errors import RegistryError
from conceptguard.files.paths import INDEX
from conceptguard.registry.index import SCHEMA as ONE_FILE
from conceptguard.registry.index import Entry, entry_lines, read_index

SCHEMA = 2
FOLDER = "index"
FEW = 2000  # entries that one file lists
PER_SHARD = 512  # entries of a shard when a registry is sharded anew; it is sharded again at twice as many
MAX_SHARDS = 4096
MAX_SHARD = 16 * 1024 * 1024
MAX_SHARDED = 2 * 1024**3  # bytes of all shards
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class Shard(NamedTuple):
    """One file of the index: its SHA-256 in hexadecimal and its size in bytes."""

    sha256: str
    size: int

    @property
    def path(self) -> str:
        """Where it lies below the registry."""
        return f"{FOLDER}/{self.sha256}.json"


class Shards(NamedTuple):
    """What an `index.json` of shards says; `total`: artifacts in all."""

    shards: tuple[Shard, ...]
    total: int
    serial: int

    def number(self, ref: str) -> int:
        """Which shard lists a reference."""
        return number_of(ref, len(self.shards))


def number_of(ref: str, shards: int) -> int:
    """Of so many shards, which lists a reference."""
    return int.from_bytes(hashlib.sha256(ref.encode()).digest()[:4], "big") % shards


def shards_of(fields: dict[str, Any], source: str) -> Shards:
    """The shards that an `index.json` names. Raises RegistryError for a list that no writer of ours makes."""
    listed, total = fields.get("shards"), fields.get("count")
    wrong = f"{source}: {INDEX} names shards that cannot be: rebuild it with `conceptguard index`"
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_SHARDS or type(total) is not int or total < 0:
        raise RegistryError(wrong)
    for one in listed:
        good = isinstance(one, dict) and type(one.get("size")) is int and 0 < one["size"] <= MAX_SHARD
        if not good or not isinstance(one.get("sha256"), str) or not _SHA256.match(one["sha256"]):
            raise RegistryError(wrong)
    if sum(one["size"] for one in listed) > MAX_SHARDED:
        raise RegistryError(wrong)
    return Shards(tuple(Shard(one["sha256"], one["size"]) for one in listed), total, fields.get("serial", 0))


def read_shard(data: bytes, shards: Shards, number: int, source: str) -> list[Entry]:
    """The entries of one shard, once its bytes are those that the index names. Raises RegistryError."""
    shard = shards.shards[number]
    if len(data) != shard.size or hashlib.sha256(data).hexdigest() != shard.sha256:
        raise RegistryError(
            f"{source}: {shard.path} is not what {INDEX} names: rebuild it with `conceptguard index`, or fetch it again"
        )
    entries = read_index(data, source).entries
    if any(shards.number(entry.ref) != number for entry in entries):
        raise RegistryError(
            f"{source}: {shard.path} lists what belongs into another shard: rebuild it with `conceptguard index`"
        )
    return entries


def shard_bytes(entries: Iterable[Entry]) -> bytes:
    """The text of one shard. Raises RegistryError for more than a reader takes."""
    data = f'{{"schema": {ONE_FILE}, "entries": [\n'.encode() + entry_lines(entries)
    if len(data) > MAX_SHARD:
        raise RegistryError(f"a shard of {INDEX} would be {len(data):,} bytes: say less in the manifests' cards")
    return data


def split(entries: Iterable[Entry], shards: int) -> list[list[Entry]]:
    """Entries by shard."""
    parts: list[list[Entry]] = [[] for _ in range(shards)]
    for entry in entries:
        parts[number_of(entry.ref, shards)].append(entry)
    return parts


def how_many(count: int) -> int:
    """Shards for so many entries: a power of two. Raises RegistryError for more than a reader takes."""
    shards = 1
    while shards * PER_SHARD < count:
        shards *= 2
    if shards > MAX_SHARDS:
        raise RegistryError(f"{count:,} artifacts, more than an index can list: split the registry")
    return shards


def root_bytes(shards: Sequence[Shard], count: int, serial: int) -> bytes:
    """The text of an `index.json` of shards. Raises RegistryError for more than a reader takes."""
    if sum(shard.size for shard in shards) > MAX_SHARDED:
        raise RegistryError(f"{INDEX} would list more than {MAX_SHARDED:,} bytes: split the registry")
    lines = ",\n".join("  " + json.dumps(shard._asdict()) for shard in shards)
    return f'{{"schema": {SCHEMA}, "serial": {serial}, "count": {count}, "shards": [\n{lines}\n]}}\n'.encode()
