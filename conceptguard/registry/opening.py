"""An `index.json` that was read, whatever its layout: what it lists, or the shards that list it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from conceptguard.errors import RegistryError
from conceptguard.files.paths import INDEX
from conceptguard.registry.index import Entry, entries_by_line, index_fields, index_of
from conceptguard.registry.listing import Few, Listing
from conceptguard.registry.shards import SCHEMA, Shards, shards_of

LARGE = 2 * 1024 * 1024  # bytes from which an index in one file is read once, into a catalogue


class Opened(NamedTuple):
    """One of `listing` and `shards` is there. `serial` as in `Index`."""

    serial: int
    listing: Listing | None
    shards: Shards | None


def open_index(data: bytes, source: str, tables: Path | None) -> Opened:
    """Read the bytes of an `index.json`; a catalogue of a long one is kept in `tables`, or it is read anew each time.

    Raises RegistryError.
    """
    if len(data) > LARGE and tables is not None:
        by_line = entries_by_line(io.BytesIO(data), source)
        if by_line is not None:
            state = hashlib.sha256(data).hexdigest()
            return Opened(by_line[0], large_listing(lambda: io.BytesIO(data), source, tables, state), None)
    fields = index_fields(data, source)
    if fields["schema"] == SCHEMA:
        shards = shards_of(fields, source)
        return Opened(shards.serial, None, shards)
    index = index_of(fields, source)
    return Opened(index.serial, Few(index.entries), None)


def large_listing(read: Callable[[], IO[bytes]], source: str, tables: Path, state: str) -> Listing:
    """The listing of an index in one file, whose lines `read` gives. Raises RegistryError."""

    def entries() -> Iterable[Entry]:
        with read() as lines:
            by_line = entries_by_line(lines, source)
            if by_line is not None:
                yield from by_line[1]

    from conceptguard.registry.catalogue import catalogued  # only large registries need a database

    return catalogued(tables, source, state, {state: entries})


def sharded_listing(
    shards: Shards,
    part: Callable[[int], list[Entry]],
    source: str,
    tables: Path,
    ready: Callable[[list[int]], object] = lambda numbers: None,
) -> Listing:
    """The listing of an index of shards, each of which `part` reads by its number; `ready` is told which these are.

    Raises RegistryError.
    """
    from conceptguard.registry.catalogue import catalogued

    # A shard's place is part of its name: one that stands for another as well would hide what that one lists.
    names = [f"{number}/{len(shards.shards)} {shard.sha256}" for number, shard in enumerate(shards.shards)]
    parts = {name: partial(part, number) for number, name in enumerate(names)}
    listing = catalogued(
        tables, source, " ".join(names), parts, lambda some: ready([int(name.split("/")[0]) for name in some])
    )
    if len(listing) != shards.total:
        raise RegistryError(
            f"{source}: {INDEX} says {shards.total:,} artifacts, its shards list {len(listing):,}: "
            "rebuild it with `conceptguard index`"
        )
    return listing


def tables_of(cache: Path, place: str) -> Path:
    """The folder of the catalogues of one registry."""
    return cache / "catalogues" / hashlib.sha256(place.encode()).hexdigest()[:32]
