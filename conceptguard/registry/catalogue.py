"""A listing of many entries: a table in the cache, made from an index when it is first read, and looked through there.

It is for looking. What is loaded is checked against the index itself. A table belongs to one state of one index, which
its name tells; the next state's takes over the shards that did not change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from conceptguard.errors import RegistryError
from conceptguard.files.atomic import TEMPORARY, locked, sweep
from conceptguard.files.paths import INDEX
from conceptguard.registry.index import FIELDS, Entry
from conceptguard.registry.listing import Few, Listing, words
from conceptguard.registry.patience import patiently

FORM = 1  # of the tables
LIKE = 100  # entries of one likeness that are compared with a mistyped name
_TABLES = """
create table names(ref text primary key, name text, method text, base text, concept text, words text, id integer)
  without rowid;
create table entries(id integer primary key, shard text, entry text);
"""
_INDEXES = """
create index by_name on names(name);
create index in_short on names(ref, concept);
create index by_shard on entries(shard);
"""

_TOGETHER = 200  # entries that are looked up at a time

Part = Callable[[], Iterable[Entry]]


def catalogued(
    folder: Path,
    source: str,
    state: str,
    parts: Mapping[str, Part],
    ready: Callable[[list[str]], object] = lambda missing: None,
) -> Listing:
    """The catalogue of one state of an index: the one in `folder`, else made of the index's parts by their hashes.

    ready: called with the hashes of the parts that will be read. Where no catalogue can be kept, the listing is in
    memory. Raises RegistryError for a part that is no good.
    """
    path = folder / f"{hashlib.sha256(f'{FORM} {state}'.encode()).hexdigest()[:32]}.sqlite"
    why = ""
    for _ in range(2):
        try:
            if not path.is_file():
                with ExitStack() as stack:
                    try:
                        stack.enter_context(locked(folder))
                    except RegistryError as cause:
                        why = str(cause)
                        break
                    if not path.is_file():
                        _make(path, parts, ready)
            return Catalogue(path, source)
        except (sqlite3.Error, OSError) as cause:
            why = f"{path}: {cause}"
            path.unlink(missing_ok=True)
    print(f"conceptguard: {why}; the index of {source} is not kept", file=sys.stderr)
    ready(list(parts))
    return Few(sorted((entry for part in parts.values() for entry in part()), key=lambda one: one.ref))


def _make(path: Path, parts: Mapping[str, Part], ready: Callable[[list[str]], object]) -> None:
    before = max(path.parent.glob("*.sqlite"), key=lambda one: one.stat().st_mtime, default=None)
    sweep(path.parent)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with closing(sqlite3.connect(temporary)) as table, table:
            # Nobody sees it before it is whole.
            table.executescript("pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -32000;")
            table.executescript(_TABLES)
            there = _take_over(table, before, parts) if before else set()
            missing = [shard for shard in parts if shard not in there]
            ready(missing)
            for shard in patiently(missing, len(missing), "reading the index"):
                _fill(table, shard, parts[shard]())
            table.executescript(_INDEXES)
            table.execute(f"pragma user_version = {FORM}")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    for other in path.parent.glob("*.sqlite"):
        if other != path:
            with suppress(OSError):  # open elsewhere, on systems that mind
                other.unlink()


def _take_over(table: sqlite3.Connection, before: Path, parts: Mapping[str, Part]) -> set[str]:
    """Copy the shards that an older catalogue has as well; which these are."""
    try:
        table.execute("attach ? as older", (f"file:{before}?immutable=1",))
        if table.execute("pragma older.user_version").fetchone()[0] != FORM:
            return set()
        have = {shard for (shard,) in table.execute("select distinct shard from older.entries")} & set(parts)
        table.execute("create temp table same(shard text primary key)")
        table.executemany("insert into same values (?)", ((shard,) for shard in have))
        table.execute("insert into entries select * from older.entries where shard in same")
        table.execute("insert into names select * from older.names where id in (select id from entries)")
        table.commit()
        table.execute("detach older")
        return have
    except sqlite3.Error:
        table.executescript("delete from entries; delete from names;")
        return set()


def _fill(table: sqlite3.Connection, shard: str, entries: Iterable[Entry]) -> None:
    number = table.execute("select coalesce(max(id), 0) from entries").fetchone()[0]
    rest = iter(entries)
    while some := list(islice(rest, 1000)):
        whole, names = [], []
        for entry in some:
            number += 1
            fields = {field: getattr(entry, field) for field in FIELDS}
            whole.append((number, shard, json.dumps(fields, ensure_ascii=False)))
            names.append((entry.ref, entry.name, entry.method, entry.base, entry.concept, words(entry), number))
        try:
            table.executemany("insert into entries values (?, ?, ?)", whole)
            table.executemany("insert into names values (?, ?, ?, ?, ?, ?, ?)", names)
        except sqlite3.IntegrityError:
            raise RegistryError(
                f"{some[0].source}: {INDEX} lists a reference twice: rebuild it with `conceptguard index`"
            ) from None


class Catalogue:
    """The listing that a table holds. Raises sqlite3.Error for a file that is none."""

    def __init__(self, path: Path, source: str) -> None:
        self.source, self._path = source, path
        # Never written to once it has its name: no locks, on whatever file system.
        self._table = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        if self._table.execute("pragma user_version").fetchone()[0] != FORM:
            raise sqlite3.DatabaseError(f"{path}: not a catalogue")
        self._count = int(self._table.execute("select count(*) from entries").fetchone()[0])

    def __len__(self) -> int:
        return self._count

    def _ask(self, query: str, given: Any = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of an answer. Raises RegistryError for a table that was damaged, and takes it away."""
        try:
            yield from self._table.execute(query, given)
        except sqlite3.Error as cause:
            raise self.damaged(str(cause)) from None

    def damaged(self, why: str) -> RegistryError:
        """What to raise where the table is not as it was made (after a power cut, say): it is gone with that."""
        self._path.unlink(missing_ok=True)
        return RegistryError(f"{self._path}: damaged ({why}), and deleted: do the same again, and it is made anew")

    def __iter__(self) -> Iterator[Entry]:
        return self._entries("select ref, concept from names order by ref")

    def _entries(self, query: str, given: tuple[Any, ...] = ()) -> Iterator[Entry]:
        new, put = object.__new__, object.__setattr__
        asked = self._ask(query, given)
        while rows := list(islice(asked, _TOGETHER)):
            rest = _Rest(self, [ref for ref, _ in rows])
            for ref, concept in rows:
                entry = new(Listed)
                put(entry, "ref", ref)
                put(entry, "concept", concept)
                put(entry, "_rest_of", rest)
                yield entry

    def get(self, ref: str) -> Entry | None:
        """The entry of a full reference."""
        return next(self._entries("select ref, concept from names where ref = ?", (ref,)), None)

    def ending(self, ref: str) -> list[Entry]:
        """See `Listing`."""
        parts = ref.split("/")[::-1]
        if not 1 <= len(parts) <= 3:
            return []
        asked = " and ".join(f"{column} = ?" for column in ("name", "method", "base")[: len(parts)])
        return list(self._entries(f"select ref, concept from names where {asked} order by ref", tuple(parts)))

    def search(self, concept: str = "", method: str = "", base: str = "") -> Iterator[Entry]:
        """See `Listing`."""
        asked = [("instr(words, ?) > 0", concept.lower()), ("method = ?", method), ("base = ?", base)]
        given = [(test, value) for test, value in asked if value]
        where = f"where {' and '.join(test for test, _ in given)}" if given else ""
        return self._entries(f"select ref, concept from names {where} order by ref", tuple(value for _, value in given))

    def like(self, text: str) -> list[Entry]:
        """Some of those that contain the text, or have one half of it: a slip of one letter leaves the other half. Then
        those that begin and end alike.
        """
        small = text.lower()
        given = {"begin": small[: len(small) // 2], "end": small[-(len(small) // 2) :], "text": small}
        given |= {"first": small[:2], "last": small[-2:]}
        tests = (
            "instr(TEXT, :text) > 0",
            "substr(TEXT, 1, length(:begin)) = :begin",
            "substr(TEXT, -length(:end)) = :end",
            "substr(TEXT, 1, 2) = :first and substr(TEXT, -2) = :last",
        )
        order = f"order by abs(length(name) - {len(small)}), ref limit {LIKE}"
        found: dict[str, Entry] = {}
        for test in tests if small else ():
            both = f"({test.replace('TEXT', 'name')}) or ({test.replace('TEXT', 'lower(concept)')})"
            for ref, _ in self._ask(f"select ref, concept from names where {both} {order}", given):
                entry = self.get(ref)
                if entry is not None:
                    found.setdefault(ref, entry)
        return list(found.values())

    def kinds(self, field: str) -> set[str]:
        """See `Listing`."""
        column = {"method": "method", "base": "base"}[field]
        return {value for (value,) in self._ask(f"select distinct {column} from names")}

    def texts(self, refs: list[str]) -> dict[str, str]:
        """What the index says about each of some references that are listed."""
        asked = ", ".join("?" * len(refs))
        query = f"select ref, entry from names natural join entries where ref in ({asked})"
        return {ref: text for ref, text in self._ask(query, refs)}


class _Rest:
    """What entries that were looked up together do not hold yet; read for all of them at once."""

    def __init__(self, catalogue: Catalogue, refs: list[str]) -> None:
        self.catalogue, self.refs = catalogue, refs
        self.texts: dict[str, str] | None = None

    def fields(self, ref: str) -> dict[str, Any]:
        """Everything about one of them."""
        texts = self.texts
        if texts is None:
            texts = self.texts = self.catalogue.texts(self.refs)
        if ref not in texts:
            raise self.catalogue.damaged(f"{ref} has no entry")
        fields: dict[str, Any] = json.loads(texts[ref])
        return {**fields, "prompts": tuple(fields["prompts"]), "source": self.catalogue.source}


class Listed(Entry):
    """An entry of a catalogue: the rest of it is read when it is first asked for."""

    _rest_of: _Rest

    @cached_property
    def _rest(self) -> dict[str, Any]:
        return self._rest_of.fields(self.ref)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and _whole(self) == _whole(other)

    def __reduce__(self) -> Any:
        return Entry, tuple(getattr(self, field.name) for field in dataclasses.fields(Entry))


class _Later:
    """A field of `Listed` that is not there yet."""

    def __init__(self, field: str) -> None:
        self.field = field

    def __get__(self, entry: Any, kind: type) -> Any:
        if entry is None:
            return self
        part = {"base": 0, "method": 1, "name": 2}.get(self.field)
        value = entry.ref.split("/")[part] if part is not None else entry._rest[self.field]
        entry.__dict__[self.field] = value
        return value


for _field in dataclasses.fields(Entry):
    if _field.name not in ("ref", "concept"):
        setattr(Listed, _field.name, _Later(_field.name))


def _whole(entry: Entry) -> list[Any]:
    return [getattr(entry, field.name) for field in dataclasses.fields(Entry)]
