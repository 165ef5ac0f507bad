"""The header of a safetensors file, read without torch and before the safetensors library sees the file.

The library checks that offsets are contiguous and fill the file. Checked here is what it lets pass: repeated
keys (it keeps the last one, so two readers could disagree about a file) and headers that are far too long.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from conceptguard.errors import ArtifactError
from conceptguard.files.paths import MAX_HEADER, PICKLES, pickle_message

BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U64": 64,
    "U32": 32,
}
BITS |= {
    "U16": 16,
    "U8": 8,
    "BOOL": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
}
BITS |= {"C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


class Slot(NamedTuple):
    """Where one tensor lies: safetensors dtype name, shape, and first and last byte (exclusive) after the
    header.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """`start`: the byte at which tensor data begins. Files that differ in metadata alone share one `tensors`."""

    tensors: Mapping[str, Slot]
    metadata: dict[str, str]
    start: int


def read_header(path: Path) -> Header:
    """The header of a file on disk; only the header is read. Raises ArtifactError."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as handle:
            head = handle.read(8)
            length = _length(head, size, str(path))
            return _parse(handle.read(length), size, str(path))
    except OSError as cause:
        raise ArtifactError(f"{path}: cannot be read ({cause.strerror}): check the path and its permissions") from None


def parse_header(data: bytes | bytearray, where: str) -> Header:
    """The header of a whole file in memory. Raises ArtifactError."""
    length = _length(bytes(data[:8]), len(data), where)
    return _parse(bytes(data[8 : 8 + length]), len(data), where)


def _length(head: bytes, size: int, where: str) -> int:
    name = where.lower()
    if head[:4] == b"PK\x03\x04" or any(name.endswith(suffix) for suffix in PICKLES):
        raise ArtifactError(pickle_message(where))
    if len(head) < 8:
        raise ArtifactError(f"{where}: {size} bytes, too short for safetensors: fetch or make it again")
    length = int.from_bytes(head, "little")
    # A pickle starts with 0x80 and its protocol; as a length this is far above the limit, so no good file is
    # refused.
    if head[0] == 0x80 and 2 <= head[1] <= 5 and length > MAX_HEADER:
        raise ArtifactError(pickle_message(where))
    if length > MAX_HEADER:
        raise ArtifactError(
            f"{where}: its header claims {length:,} bytes, more than {MAX_HEADER:,}: not a safetensors file"
        )
    if 8 + length > size:
        raise ArtifactError(
            f"{where}: truncated (its header alone needs {8 + length:,} of {size:,} bytes): fetch it again"
        )
    return length


def _parse(text: bytes, size: int, where: str) -> Header:
    apart = _apart(text, size - 8 - len(text)) if len(text) <= _SHARED else None
    if apart is not None:
        return Header(apart[1], apart[0], 8 + len(text))
    try:
        fields = json.loads(text.decode("utf-8"), object_pairs_hook=_no_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError) as cause:
        problem = str(cause) if isinstance(cause, _Repeated) else "not valid JSON"
        raise ArtifactError(f"{where}: bad safetensors header ({problem}): fetch or make it again") from None
    if not isinstance(fields, dict):
        raise ArtifactError(f"{where}: bad safetensors header (not a mapping): fetch or make it again")
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ArtifactError(f"{where}: bad safetensors header (metadata must be text): fetch or make it again")
    start = 8 + len(text)
    return Header(_placed(fields, size - start, where), metadata, start)


def _apart(text: bytes, room: int) -> tuple[dict[str, str], Mapping[str, Slot]] | None:
    """Metadata and tensors of a header that begins with its metadata, as the safetensors library writes it; None for
    any other, and for one that is not as it should be: that is read in one piece, which says what is wrong.
    """
    if not text.startswith(_BEGINS):
        return None
    try:
        whole = text.decode("utf-8")
        metadata, end = _reader.raw_decode(whole, len(_BEGINS))
    except (ValueError, RecursionError):
        return None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return None
    tensors = _shared("{" + whole[end + 1 :], room) if whole[end : end + 1] == "," else None
    return None if tensors is None else (metadata, tensors)


@lru_cache(maxsize=8)  # a policy of a thousand membranes is a thousand files whose headers differ in metadata alone
def _shared(text: str, room: int) -> Mapping[str, Slot] | None:
    """The tensors of a header without its metadata; None where anything is wrong with them."""
    try:
        fields = _reader.decode(text)
        return None if "__metadata__" in fields else _placed(fields, room, "")
    except (ValueError, RecursionError, ArtifactError):
        return None


def _placed(fields: dict[str, Any], room: int, where: str) -> Mapping[str, Slot]:
    """Where the tensors lie in the `room` bytes behind the header."""
    tensors = {name: _slot(slot, room, where, name) for name, slot in fields.items()}
    last = 0
    for slot in sorted(tensors.values(), key=lambda one: one[2:]):
        if slot.begin != last:
            raise ArtifactError(f"{where}: tensors overlap or leave gaps: altered; fetch or make it again")
        last = slot.end
    if last != room:
        raise ArtifactError(f"{where}: {room - last:,} bytes belong to no tensor: altered; fetch or make it again")
    return MappingProxyType(tensors)


def _slot(fields: Any, room: int, where: str, name: str) -> Slot:
    try:
        dtype, shape, (begin, end) = fields["dtype"], fields["shape"], fields["data_offsets"]
        bits = BITS[dtype] if len(fields) == 3 and type(shape) is list and len(shape) <= 16 else -1
    except (TypeError, KeyError, ValueError):
        bits, dtype, shape, begin, end = -1, "", [], 0, 0
    if bits < 0 or not all(type(n) is int and 0 <= n < 2**63 for n in (begin, end, *shape)):
        raise ArtifactError(
            f"{where}: tensor {name[:120]!r} is not described as safetensors does: fetch or make it again"
        )
    for n in shape:
        bits *= n
    if not begin <= end <= room or bits != 8 * (end - begin):
        raise ArtifactError(
            f"{where}: tensor {name[:120]!r}: shape, dtype and place do not agree: truncated or altered; fetch it again"
        )
    return Slot(dtype, tuple(shape), begin, end)


class _Repeated(ValueError):
    pass


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _Repeated("a key is given twice")
    return result


def _no_constant(text: str) -> float:
    raise ValueError(text)


_BEGINS = b'{"__metadata__":'
_SHARED = 512 * 1024  # bytes of a header up to which its tensors are remembered
_reader = json.JSONDecoder(object_pairs_hook=_no_repeats, parse_constant=_no_constant)
