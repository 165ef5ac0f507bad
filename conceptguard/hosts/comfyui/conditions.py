"""One row of a condition of a ComfyUI sampling: its embedding, and what is known of what it says."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...generation.conditioning import Branch
from ..denoising.families import Family
from .text import Seen

_BRANCHES: dict[str, Branch] = {"negative": "negative"}  # every other condition of a guider is drawn towards


class Part(NamedTuple):
    """One window of a condition: how many tokens it has, its words, their ids, and what each text encoder was given;
    None where that could not be told."""

    length: int
    text: str | None
    ids: list[int] | None
    prompts: tuple[str, ...] | None


class Condition(NamedTuple):
    """One row of one condition of a sampling. texts: None where it could not be told what it says."""

    name: str
    embeds: Tensor
    texts: list[Seen] | None

    @property
    def text(self) -> str | None:
        if self.texts is None:
            return None
        whole = [seen.text for seen in self.texts]
        return whole[0] if len(set(whole)) == 1 else " ".join(whole)

    @property
    def branch(self) -> Branch:
        branch = _BRANCHES.get(self.name, "conditional")
        return "unconditional" if branch == "negative" and self.text == "" else branch

    @property
    def prompts(self) -> tuple[str, ...] | None:
        """What each text encoder was given; None where a guard must look window by window."""
        return self.texts[0].pieces[0] if self.texts and self.windows == 1 else None

    @property
    def ids(self) -> list[int] | None:
        return None if self.texts is None else [i for seen in self.texts for w in seen.ids or () for i in w]

    @property
    def windows(self) -> int:
        return sum(len(seen.ids or ()) for seen in self.texts or ())

    def parts(self, size: int) -> list[Part]:
        """The condition window by window; size: how many tokens a window has where nothing else is known."""
        if self.texts is None:
            return [Part(min(size, len(self.embeds) - at), None, None, None) for at in range(0, len(self.embeds), size)]
        return [
            Part(len(seen.embeds) // len(seen.pieces), seen.text if len(seen.pieces) == 1 else piece[0], ids, piece)
            for seen in self.texts
            for ids, piece in zip(seen.ids or (), seen.pieces)
        ]

    def read(self, family: Family) -> Tensor:
        """The embedding as gates read it, [tokens, width]: a begin token, then the text's own, window after window."""
        read = family.reading(self.embeds[None])[0]
        if self.texts is None or self.windows == 1:
            return read
        parts = [part.to(read) for seen in self.texts for part in seen.content(family.begins)]
        return torch.cat([read[:1], *(parts or [read[1:2]])])

    def covers(self, row: Tensor) -> bool:
        """Whether a row of a call is this one, which ComfyUI repeats to the length of another one beside it."""
        times, rest = divmod(len(row), len(self.embeds))
        if rest or self.embeds.shape[1] != row.shape[1]:
            return False
        return torch.equal(self.embeds.to(row).repeat(times, 1), row)


def nothing(name: str, row: Tensor, size: int) -> Condition:
    """A condition that was zeroed out; size: of one window."""
    windows = max(len(row) // size, 1)
    return Condition(name, row, [Seen(row, "", [[]] * windows, [("",) * 3] * windows)])
