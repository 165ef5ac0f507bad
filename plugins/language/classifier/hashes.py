"""Salted hashes: an artifact says whether a text is one of those it was made from, and not which those are."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

SEAL = (
    8  # bytes after the salt that tell whether it is whole: with another salt nothing would be found, and all let pass
)


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

    def tensor(self) -> Tensor:
        """The salt and its seal, uint8."""
        seal = self.of("").to_bytes(SEAL, "little", signed=True)
        return torch.frombuffer(bytearray(self.salt + seal), dtype=torch.uint8).clone()

    @staticmethod
    def read(tensor: Tensor) -> Hashes:
        """Back from ``tensor``. Raises ValueError where the seal is broken."""
        found = Hashes(bytes(tensor[:-SEAL].tolist()))
        if not torch.equal(found.tensor(), tensor):
            raise ValueError("its salt has been altered")
        return found

    def _of(self, data: bytes) -> int:
        state = self._begun.copy()
        state.update(data)
        return int.from_bytes(state.digest(), "little", signed=True)
