"""What every token id stands for, in bytes, whatever the tokenizer's kind."""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    def shown(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    special = _special(tokenizer, shown)
    pieces = _pieces(tokenizer, special, shown)[:size]

    def decode(ids: Sequence[int]) -> str:
        text = shown(ids)
        if "\ufffd" not in text:
            return text
        # One letter that is not finished, and tokenizers of sentencepiece show no letter of all the bytes beside it.
        said = b"".join(pieces[i] or b"" for i in ids if i < len(pieces)).decode(errors="replace")
        return said if text.startswith(" ") else said.removeprefix(" ")

    def encode(texts: Sequence[str]) -> list[list[int]]:
        if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:  # many times faster than its wrapper
            with _uncut(backend):
                return [found.ids for found in backend.encode_batch(list(texts), add_special_tokens=False)]
        return list(tokenizer(list(texts), add_special_tokens=False).input_ids) if texts else []

    return Vocabulary(pieces, special, stops, decode, encode, _bytewise(tokenizer) - special)


def _bytewise(tokenizer: Any) -> frozenset[int]:
    """Tokens that are one byte and are shown together with the bytes beside them."""
    if _kind(tokenizer) == "bytes":
        return frozenset()
    return frozenset(
        i for token, i in tokenizer.get_vocab().items() if isinstance(token, str) and _BYTE.fullmatch(token)
    )


def _special(tokenizer: Any, decode: Any) -> frozenset[int]:
    """Ids that say nothing: those of named special tokens, and those that were added as special, which decoding leaves
    out as well, though no list has them."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    unnamed = (int(i) for i, token in added.items() if token.special and not decode([i]))
    return frozenset((*map(int, tokenizer.all_special_ids), *unnamed))


@contextmanager
def _uncut(backend: Any) -> Iterator[None]:
    """Without the padding and truncation that the last call of its wrapper has left it with."""
    padding, truncation = backend.padding, backend.truncation
    try:
        backend.no_padding()
        backend.no_truncation()
        yield
    finally:
        if padding is not None:
            backend.enable_padding(**padding)
        if truncation is not None:
            backend.enable_truncation(**truncation)


def _pieces(tokenizer: Any, special: frozenset[int], decode: Any) -> list[bytes | None]:
    tokens = tokenizer.get_vocab()
    found: list[bytes | None] = [None] * (max(tokens.values(), default=-1) + 1)
    kind = _kind(tokenizer)
    # Decoding treats added tokens as all others, but for tokenizers in Python, which show them as they are written.
    literal = {} if getattr(tokenizer, "backend_tokenizer", None) is not None else tokenizer.get_added_vocab()
    letters = _letters() if kind == "bytes" else {}
    anchor = encode[-1] if (encode := tokenizer(_ANCHOR, add_special_tokens=False).input_ids) else None
    for token, i in tokens.items():
        if i in special:
            found[i] = b""
        elif isinstance(token, bytes):
            found[i] = token
        elif token in literal:
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
    if kind == "other":
        for i, byte_ in _bytes_of(tokenizer).items():
            if i not in special and (not found[i] or _UNREADABLE in (found[i] or b"")):
                found[i] = byte_
    return found


_UNREADABLE = "\ufffd".encode()
# A letter for every byte that begins a longer one, and for every byte inside of one.
_LONGER = "".join(
    [chr(0xC0 + i) for i in range(64)] + [chr(lead << 6) for lead in range(2, 32)] + ["\u0800"]
    + [chr(lead << 12) for lead in range(1, 16) if lead != 13] + ["\ud000"] + [chr(lead << 18) for lead in range(1, 5)]
    + ["\U00010000"]
)  # fmt: skip


def _bytes_of(tokenizer: Any) -> dict[int, bytes]:
    """Tokens that are one byte of a letter, which decode to nothing by themselves: told by the letters that they make
    up together."""
    found: dict[int, bytes] = {}
    for letter in _LONGER:
        data = letter.encode()
        ids = tokenizer(letter, add_special_tokens=False).input_ids
        if len(ids) == len(data):
            found |= {int(i): bytes([byte]) for i, byte in zip(ids, data)}
    return found


def _kind(tokenizer: Any) -> str:
    """How the vocabulary writes bytes: as letters (GPT-2 and after), as pieces with a bar for a space, or otherwise."""
    if getattr(tokenizer, "byte_decoder", None):  # GPT-2's in Python
        return "bytes"
    if getattr(tokenizer, "sp_model", None) is not None:  # sentencepiece itself
        return "sentencepiece"
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
