"""Texts that a training draws from, encoded when they are asked for.

What one text is encoded to may take megabytes, as in Stable Diffusion 3, with T5 or with zeros in its place. A training
asks for a few of its texts at a time, and for most of thousands never.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..generation.conditioning import Encoded, stack

if TYPE_CHECKING:
    from ..host import Host

HELD = 256 << 20  # bytes of what was asked for last


class EncodedTexts:
    """Any number of texts as the denoiser sees them; of what they are encoded to, no more than ``HELD`` bytes are held.

    Each is encoded alone, so that it is the same to the last bit whenever and beside whatever it is asked for.
    """

    def __init__(self, host: Host, texts: Sequence[str]):
        self.texts, self._host = list(texts), host
        self._held: OrderedDict[str, Encoded] = OrderedDict()
        self._room = 1

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, rows: Sequence[int]) -> Encoded:
        """Some of the texts, in that order, [rows, tokens, width]."""
        texts = [self.texts[row] for row in rows]
        read = {text: self._read(text) for text in dict.fromkeys(texts)}
        return stack(*(read[text] for text in texts))

    def _read(self, text: str) -> Encoded:
        if text not in self._held:
            found = self._held[text] = self._host.encode([text])
            parts = [part for part in (found.embeds, found.pooled) if part is not None]
            self._room = max(1, HELD // sum(part.numel() * part.element_size() for part in parts))
        self._held.move_to_end(text)
        while len(self._held) > self._room:
            self._held.popitem(last=False)
        return self._held[text]
