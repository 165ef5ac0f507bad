"""What a picture is asked for by: texts as a denoiser sees them, and the prompts of one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

Branch = Literal["conditional", "negative", "unconditional"]


@dataclass
class Encoded:
    """Texts as the denoiser sees them: embeds [rows, tokens, width], ids [rows][tokens] without special tokens.

    pictures: [rows, tokens, width] beside them, of an image adapter, see ``Denoiser.reading_pictures``; zeros are none
    """

    embeds: torch.Tensor
    ids: list[list[int]]
    pooled: torch.Tensor | None = None
    pictures: torch.Tensor | None = None


def stack(*parts: Encoded) -> Encoded:
    """Conditions one below the other."""
    pooled = None if parts[0].pooled is None else torch.cat([p.pooled for p in parts])  # type: ignore[misc]
    shown = [p.pictures for p in parts if p.pictures is not None]
    pictures = None
    if shown:
        none = [shown[0].new_zeros(len(p.embeds), *shown[0].shape[1:]) for p in parts]
        pictures = torch.cat([zeros if p.pictures is None else p.pictures for p, zeros in zip(parts, none)])
    return Encoded(torch.cat([p.embeds for p in parts]), [ids for p in parts for ids in p.ids], pooled, pictures)


def pick(encoded: Encoded, rows: list[int]) -> Encoded:
    """Some rows of conditions, in that order."""
    pooled = None if encoded.pooled is None else encoded.pooled[rows]
    pictures = None if encoded.pictures is None else encoded.pictures[rows]
    return Encoded(encoded.embeds[rows], [encoded.ids[r] for r in rows], pooled, pictures)


@dataclass
class Prompts:
    """Every condition of one call, one row each (several images of one prompt are several rows).

    texts: what was typed, None where the caller passed embeddings
    ids: token ids without special tokens, None where there is no text
    embeds: [rows, tokens, width]; pooled: [rows, width] or None
    branches: whether a row is generated towards, away from, or from nothing
    encode: text -> Encoded, through the host's own encoder; encode_negative: the same as negative prompts are encoded,
    where that is another way
    """

    texts: list[str | None]
    ids: list[list[int] | None]
    embeds: torch.Tensor
    pooled: torch.Tensor | None
    branches: list[Branch]
    encode: Callable[[list[str]], Encoded]
    encode_negative: Callable[[list[str]], Encoded] | None = None

    def rewrite(self, row: int, text: str) -> None:
        """Replace the text of one row and encode it again."""
        towards = self.branches[row] == "conditional" or self.encode_negative is None
        new = self.encode([text]) if towards else self.encode_negative([text])  # type: ignore[misc]
        self.texts[row], self.ids[row] = text, new.ids[0]
        self.embeds = self.embeds.clone()
        self.embeds[row] = new.embeds[0].to(self.embeds)
        if self.pooled is not None and new.pooled is not None:
            self.pooled = self.pooled.clone()
            self.pooled[row] = new.pooled[0].to(self.pooled)
