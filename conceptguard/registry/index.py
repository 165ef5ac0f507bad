"""`index.json`: what a registry holds, so that listing it (and a remote one above all) opens no artifact."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from conceptguard.errors import ConceptGuardError, RegistryError
from conceptguard.files.atomic import locked, read_limited, write_bytes
from conceptguard.files.paths import INDEX, MANIFEST, MAX_INDEX, MAX_MANIFEST, is_name, is_ref

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
    from conceptguard.files.paths import inside
    from conceptguard.registry.manifest import parse_manifest

    path = inside(folder, MANIFEST)
    data = read_limited(path, MAX_MANIFEST)
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


def parse_index(data: bytes, source: str) -> list[Entry]:
    """Entries from the bytes of an `index.json`; RegistryError for anything that is not a good index."""
    if len(data) > MAX_INDEX:
        raise RegistryError(
            f"{source}: {INDEX} is larger than {MAX_INDEX:,} bytes: not an index; ask who keeps the registry"
        )
    try:
        fields = json.loads(data.decode("utf-8"), object_pairs_hook=_no_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RegistryError(
            f"{source}: {INDEX} is not valid JSON: rebuild it with `conceptguard add`, or fetch it again"
        ) from None
    if not isinstance(fields, dict) or not isinstance(fields.get("entries"), list):
        raise RegistryError(
            f"{source}: {INDEX} is not an index (no list `entries`): rebuild it with `conceptguard add`"
        )
    schema = fields.get("schema")
    if type(schema) is not int or schema < 1:
        raise RegistryError(f"{source}: {INDEX} names no schema: rebuild it with `conceptguard add`, or fetch it again")
    if schema > SCHEMA:
        raise RegistryError(f"{source}: {INDEX} is from a newer conceptguard (schema {schema}): upgrade")
    entries = [_entry(item, source, number) for number, item in enumerate(fields["entries"])]
    if len({entry.ref for entry in entries}) != len(entries):
        raise RegistryError(f"{source}: {INDEX} lists a reference twice: rebuild it with `conceptguard add`")
    return entries


_TYPES: dict[str, tuple[type, ...]] = {
    "ref": (str,),
    "name": (str,),
    "method": (str,),
    "concept": (str,),
    "base": (str,),
    "version": (str,),
    "size": (int,),
    "sha256": (str,),
    "bytes_manifest": (int,),
    "fingerprint": (str,),
    "licence": (str,),
    "picture": (str,),
    "prompts": (list,),
    "card": (dict,),
}


def _entry(item: Any, source: str, number: int) -> Entry:
    # By hand and not by pydantic: listing thousands of entries must stay far below half a second, start-up
    # included.
    where = f"{source}: {INDEX}, entry {number}"
    if not isinstance(item, dict):
        raise RegistryError(f"{where}: not a mapping: rebuild the index with `conceptguard add`")
    for field, kinds in _TYPES.items():
        needed = field not in ("fingerprint", "licence", "picture", "prompts", "card")
        if (field not in item and needed) or (field in item and type(item[field]) not in kinds):
            raise RegistryError(f"{where}: `{field}` is missing or wrong: rebuild the index with `conceptguard add`")
    known = {field: item[field] for field in _TYPES if field in item}
    known["prompts"] = tuple(str(prompt) for prompt in known.get("prompts", ()))
    good = is_ref(item["ref"]) and is_name(item["name"])
    good = good and item["ref"] == f"{item['base']}/{item['method']}/{item['name']}"
    good = good and len(item["sha256"]) == 64 and not set(item["sha256"]) - set("0123456789abcdef")
    if not good or not 0 <= item["bytes_manifest"] <= MAX_MANIFEST or item["size"] < 0:
        raise RegistryError(
            f"{where}: reference, hash or size is not usable: rebuild the index with `conceptguard add`"
        )
    return Entry(**known, source=source)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is given twice")
    return result


def _no_constant(text: str) -> float:
    raise ValueError(text)


def index_bytes(entries: Iterable[Entry]) -> bytes:
    """The text of an index: one entry per line, sorted, so that versions compare well."""
    lines = []
    for entry in sorted(entries, key=lambda one: one.ref):
        fields = dataclasses.asdict(entry)
        del fields["source"]
        lines.append("  " + json.dumps(fields, ensure_ascii=False, allow_nan=False))
    joined = ",\n".join(lines)
    return f'{{"schema": {SCHEMA}, "entries": [\n{joined}\n]}}\n'.encode()


def scan(root: Path, source: str = "") -> tuple[list[Entry], list[tuple[str, str]]]:
    """Every artifact folder under `root`: the good entries, and (reference, message) of the others."""
    good: list[Entry] = []
    bad: list[tuple[str, str]] = []
    for path in sorted(root.glob(f"*/*/*/{MANIFEST}")):
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
        write_bytes(root / INDEX, index_bytes(good))
    return good
