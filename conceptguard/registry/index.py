"""`index.json`: what a registry holds, so that listing it (and a remote one above all) opens no artifact."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from conceptguard.errors import RegistryError
from conceptguard.files.paths import INDEX, MAX_INDEX, MAX_MANIFEST, is_name

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Entry:
    """One artifact as the index knows it. `size` in bytes; `picture`: file name of the contact sheet, or
    empty.

    `sha256` and `bytes_manifest` tell the manifest, so that a remote one is checked before it is believed;
    `source` says which registry the entry came from and is not stored.
    """

    ref: str
    name: str
    method: str
    concept: str
    base: str
    version: str
    size: int
    sha256: str
    bytes_manifest: int
    fingerprint: str = ""
    licence: str = ""
    picture: str = ""
    prompts: tuple[str, ...] = ()
    card: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: str = ""

    def row(self) -> dict[str, Any]:
        """A flat object for tables and JSON; the card's figures stand beside the rest, under their names."""
        figures = {k: v for k, v in self.card.items() if isinstance(v, (int, float, str, bool))}
        own = {"ref": self.ref, "concept": self.concept, "base": self.base, "method": self.method}
        tail = {"bytes": self.size, "version": self.version, "licence": self.licence, "source": self.source}
        return {
            **own,
            **tail,
            "picture": bool(self.picture),
            **{k: v for k, v in figures.items() if k not in own | tail},
        }


def entry_of(folder: Path, source: str = "") -> Entry:
    """The entry for an artifact folder. Raises ArtifactError when the manifest is not good."""
    from conceptguard.registry.artifact import read_manifest
    from conceptguard.registry.manifest import parse_manifest

    data, path = read_manifest(folder)
    manifest = parse_manifest(data, str(path))
    return Entry(
        ref=manifest.ref,
        name=manifest.name,
        method=manifest.method,
        concept=manifest.concept.name,
        base=manifest.base.family,
        version=manifest.version,
        size=sum(file.size for file in manifest.files),
        sha256=hashlib.sha256(data).hexdigest(),
        bytes_manifest=len(data),
        fingerprint=manifest.base.fingerprint,
        licence=manifest.licence,
        picture=next((file.path for file in manifest.files if file.path.endswith(".png")), ""),
        prompts=tuple(manifest.concept.prompts[:8]),
        card=manifest.card,
        source=source,
    )


class Index(NamedTuple):
    """What an `index.json` says. `serial` grows with every change; 0 in an index from before there were serials."""

    entries: list[Entry]
    serial: int


def parse_index(data: bytes, source: str) -> list[Entry]:
    """Entries from the bytes of an `index.json`; RegistryError for anything that is not a good index."""
    return read_index(data, source).entries


def read_index(data: bytes, source: str) -> Index:
    """The same with its serial."""
    return index_of(index_fields(data, source), source)


def index_fields(data: bytes, source: str) -> dict[str, Any]:
    """What stands in an `index.json` that names a schema, nothing of it believed yet. Raises RegistryError."""
    if len(data) > MAX_INDEX:
        raise RegistryError(
            f"{source}: {INDEX} is larger than {MAX_INDEX:,} bytes: not an index; ask who keeps the registry"
        )
    try:
        fields = json.loads(data.decode("utf-8"), object_pairs_hook=_no_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RegistryError(
            f"{source}: {INDEX} is not valid JSON: rebuild it with `conceptguard index`, or fetch it again"
        ) from None
    if not isinstance(fields, dict):
        raise RegistryError(f"{source}: {INDEX} is not an index: rebuild it with `conceptguard index`")
    schema, serial = fields.get("schema"), fields.get("serial", 0)
    if type(schema) is not int or schema < 1:
        raise RegistryError(
            f"{source}: {INDEX} names no schema: rebuild it with `conceptguard index`, or fetch it again"
        )
    if type(serial) is not int or serial < 0:
        raise RegistryError(f"{source}: {INDEX} has a serial that is no number: rebuild it with `conceptguard index`")
    return fields


def index_of(fields: dict[str, Any], source: str) -> Index:
    """The index that holds its entries itself. Raises RegistryError."""
    if fields["schema"] > SCHEMA:
        raise RegistryError(f"{source}: {INDEX} is from a newer conceptguard (schema {fields['schema']}): upgrade")
    if not isinstance(fields.get("entries"), list):
        raise RegistryError(
            f"{source}: {INDEX} is not an index (no list `entries`): rebuild it with `conceptguard index`"
        )
    entries = [_entry(item, source, number) for number, item in enumerate(fields["entries"])]
    if len({entry.ref for entry in entries}) != len(entries):
        raise RegistryError(f"{source}: {INDEX} lists a reference twice: rebuild it with `conceptguard index`")
    return Index(entries, fields.get("serial", 0))


def entries_by_line(lines: IO[bytes], source: str) -> tuple[int, Iterator[Entry]] | None:
    """The serial and the entries of an index as it is written here, one entry a line, read one by one.

    None for another layout, which is to be read as a whole. The iterator raises RegistryError where a line is no entry.
    """
    head = _HEAD.match(lines.readline(1000))
    return (int(head[1]), _lines(lines, source)) if head else None


def _lines(lines: IO[bytes], source: str) -> Iterator[Entry]:
    read, ended = 0, False
    for number, line in enumerate(lines):
        read += len(line)
        if read > MAX_INDEX or ended:
            break
        ended = line == b"]}\n"
        if ended or line == b"\n":
            continue
        try:
            text = line.decode("utf-8").rstrip().removesuffix(",")
            item = json.loads(text, object_pairs_hook=_no_repeats, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            break
        yield _entry(item, source, number)
    else:
        if ended:
            return
    raise RegistryError(f"{source}: {INDEX} is not valid JSON: rebuild it with `conceptguard index`, or fetch it again")


_HEAD = re.compile(rb'\{"schema": 1, "serial": (\d{1,18}), "entries": \[\n\Z')

_NEEDED: dict[str, type] = {
    "ref": str,
    "name": str,
    "method": str,
    "concept": str,
    "base": str,
    "version": str,
    "size": int,
    "sha256": str,
    "bytes_manifest": int,
}
_OPTIONAL: dict[str, type] = {"fingerprint": str, "licence": str, "picture": str, "prompts": list, "card": dict}
_NEEDED_TYPES = list(_NEEDED.values())
_is_kind = lru_cache(maxsize=1024)(is_name)  # of a family or a method, of which there are few
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def _entry(item: Any, source: str, number: int) -> Entry:
    # By hand and not by pydantic: listing thousands of entries must stay far below half a second, start-up
    # included.
    if type(item) is not dict:
        raise _bad(source, number, "not a mapping")
    if [type(item.get(field)) for field in _NEEDED] != _NEEDED_TYPES:
        wrong = next(field for field, kind in _NEEDED.items() if type(item.get(field)) is not kind)
        raise _bad(source, number, f"`{wrong}` is missing or wrong")
    known = {field: item[field] for field in _NEEDED}
    for field, kind in _OPTIONAL.items():
        if field in item:
            if type(item[field]) is not kind:
                raise _bad(source, number, f"`{field}` is missing or wrong")
            known[field] = item[field]
    known["prompts"] = tuple(map(str, known.get("prompts", ())))
    good = known["ref"] == f"{known['base']}/{known['method']}/{known['name']}"
    good = good and _is_kind(known["base"]) and _is_kind(known["method"]) and is_name(known["name"])
    if not good or not _SHA256.match(known["sha256"]) or known["size"] < 0:
        raise _bad(source, number, "reference, hash or size is not usable")
    if not 0 <= known["bytes_manifest"] <= MAX_MANIFEST:
        raise _bad(source, number, "reference, hash or size is not usable")
    return Entry(**known, source=source)


def _bad(source: str, number: int, why: str) -> RegistryError:
    return RegistryError(f"{source}: {INDEX}, entry {number}: {why}: rebuild the index with `conceptguard index`")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is given twice")
    return result


def _no_constant(text: str) -> float:
    raise ValueError(text)


def index_bytes(entries: Iterable[Entry], older: bytes | None = None) -> bytes:
    """The text of an index: one entry per line, sorted, so that versions compare well.

    older: the index that this one follows, as bytes; the serial is above its own, or the same where nothing changed.
    Raises RegistryError for more than a reader takes.
    """
    text = entry_lines(entries)
    before, _, same = (older or b"").partition(b'"entries": [\n')
    if older is not None and same == text and b'"serial"' in before:
        return older
    whole = f'{{"schema": {SCHEMA}, "serial": {next_serial(before)}, "entries": [\n'.encode() + text
    if len(whole) > MAX_INDEX:
        raise RegistryError(
            f"{INDEX} would be {len(whole):,} bytes, more than {MAX_INDEX:,}: nobody could read it; split the registry"
        )
    return whole


def entry_lines(entries: Iterable[Entry]) -> bytes:
    """The end of an index, from its first entry on."""
    lines = []
    for entry in sorted(entries, key=lambda one: one.ref):
        fields = {field: getattr(entry, field) for field in FIELDS}
        lines.append("  " + json.dumps(fields, ensure_ascii=False, allow_nan=False))
    body = ",\n".join(lines)
    return f"{body}\n]}}\n".encode()


def next_serial(older: bytes) -> int:
    """A serial above the one that the head of an older index names, if it names one."""
    found = re.search(rb'"serial": ?(\d{1,18})\b', older)
    # At least the time in milliseconds: an index that was begun anew is above the lost one as well.
    return max(int(found[1]) + 1 if found else 1, int(1000 * time.time()))


FIELDS = [field.name for field in dataclasses.fields(Entry) if field.name != "source"]
