"""Salted hashes: an artifact says whether a text is one of those it was made from, and not which those are."""

from __future__ import annotations

import hashlib


class Hashes:
    """64 bits of a text, or of a pair of hashes. salt: at most 64 bytes."""

    def __init__(self, salt: bytes):
        self.salt = salt
        self._begun = hashlib.blake2b(digest_size=8, key=salt)

    def of(self, text: str) -> int:
        """Of a text."""
        return self._of(text.encode())

    def pair(self, one: int, other: int) -> int:
        """Of two hashes, in whatever order."""
        return self._of(b"".join(n.to_bytes(8, "little", signed=True) for n in sorted((one, other))))

    def _of(self, data: bytes) -> int:
        state = self._begun.copy()
        state.update(data)
        return int.from_bytes(state.digest(), "little", signed=True)
