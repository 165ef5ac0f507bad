"""Letters out of bytes: a token may be a part of one, and what is said is read from bytes."""

from __future__ import annotations

import codecs


def complete(data: bytes) -> tuple[str, bytes]:
    """The text of bytes, and those at the end that are a letter which is not complete. Bytes that are no part of any
    letter are one unreadable sign (U+FFFD), and spoil none of the letters beside them."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode(data), decoder.getstate()[0]
