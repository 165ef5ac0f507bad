"""What every token id stands for, in bytes, whatever the tokenizer's kind."""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ...generation.decoding import Vocabulary

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ANCHOR = "a"  # stands before a token where only decoding tells whether it brings a space


_known: weakref.WeakKeyDictionary[Any, tuple[tuple[int, frozenset[int], int], Vocabulary]] = weakref.WeakKeyDictionary()


def vocabulary_of(tokenizer: Any, stops: frozenset[int], size: int) -> Vocabulary:
    """The tokens of a tokenizer that a model of so many can say; special ones stand for nothing.

    Read once, until the tokenizer has more tokens.
    """
    asked = len(tokenizer), stops, size
    before, known = _known.get(tokenizer, (None, None))
    if known is None or before != asked:
        known = _read(weakref.proxy(tokenizer), stops, size)
        _known[tokenizer] = asked, known
    return known


def _read(tokenizer: Any, stops: frozenset[int], size: int) -> Vocabulary:
    special = frozenset(int(i) for i in tokenizer.all_special_ids)

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def encode(texts: Sequence[str]) -> list[list[int]]:
        if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:  # many times faster than its wrapper
            return [found.ids for found in backend.encode_batch(list(texts), add_special_tokens=False)]
        return list(tokenizer(list(texts), add_special_tokens=False).input_ids) if texts else []

    return Vocabulary(_pieces(tokenizer, special, decode)[:size], special, stops, decode, encode)


def _pieces(tokenizer: Any, special: frozenset[int], decode: Any) -> list[bytes | None]:
    tokens = tokenizer.get_vocab()
    found: list[bytes | None] = [None] * (max(tokens.values(), default=-1) + 1)
    kind, added = _kind(tokenizer), tokenizer.get_added_vocab()
    letters = _letters() if kind == "bytes" else {}
    anchor = encode[0] if (encode := tokenizer(_ANCHOR, add_special_tokens=False).input_ids) else None
    for token, i in tokens.items():
        if i in special:
            found[i] = b""
        elif token in added:
            found[i] = token.encode()
        elif kind == "bytes":
            found[i] = bytes(letters[c] for c in token) if all(c in letters for c in token) else token.encode()
        elif kind == "sentencepiece":
            byte = _BYTE.fullmatch(token)
            found[i] = bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()
        elif anchor is not None:  # any other kind: what decoding adds behind a letter
            found[i] = decode([anchor, i]).removeprefix(decode([anchor])).encode()
        else:
            found[i] = decode([i]).encode()
    return found


def _kind(tokenizer: Any) -> str:
    """How the vocabulary writes bytes: as letters (GPT-2 and after), as pieces with a bar for a space, or otherwise."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    state = json.dumps(json.loads(decoder.__getstate__())) if decoder is not None else ""
    if '"ByteLevel"' in state:
        return "bytes"
    if '"Metaspace"' in state or '"\\u2581"' in state:
        return "sentencepiece"
    return "other"


@lru_cache(maxsize=1)
def _letters() -> dict[str, int]:
    """The letter that byte-level vocabularies write for each byte: itself where printable, else the next free one."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
