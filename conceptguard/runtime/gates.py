"""Gates: how far a guard's terms open for one row, 0 to 1, from what the row asks for.

Facilitated transport (SPM, Lyu et al. 2024) opens a membrane as far as the prompt resembles its concept. The official
metric compares flattened encodings, begin token and padding included, which gives every prompt a high floor. Here a
prompt is compared token by token: the concept's tokens, each with the position of the prompt nearest to it, in
encodings whitened over ordinary captions. A token counts the less, the more ordinary captions have it: in "a man with
a gun" it is the gun that matters. Between a measured ``floor`` and ``full`` the gate is linear, below the floor it is
exactly zero.

Gates of all guards come from one matrix product, so that a thousand concepts cost one prompt a few milliseconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..generation.unlisted import Unlisted, is_read
from .encodings import Encode, EncodingCache

ALIKE = 0.05  # how far, relatively, the begin tokens of two windows are from each other at most, in half precision
UNREAD_SPAN = 0.04  # from shut to fully open, for embeddings without their text


@dataclass(frozen=True)
class Gate:
    """When and how far terms open.

    prompts: what evokes the concept; empty opens always
    strength: what a fully open gate is worth
    floor, full: similarities where the gate starts to open and where it is fully open
    unread: similarity at which it is fully open for embeddings that came without their text, if below ``full``. No
    word can be recognised in those, so they are held to the weakest sight of the concept: rather opened once too often
    metric: "token" as above, or "official", the arithmetic of the SPM repository
    """

    prompts: tuple[str, ...] = ()
    strength: float = 1.0
    floor: float = 0.0
    full: float = 1.0
    unread: float | None = None
    metric: Literal["token", "official"] = "token"

    @property
    def range_unread(self) -> tuple[float, float]:
        """Floor and full for embeddings that came without their text."""
        if self.unread is None or self.unread >= self.full:
            return self.floor, self.full
        return min(self.floor, self.unread - UNREAD_SPAN), self.unread


class GateBank:
    """The gates of all guards of a session for one encoder.

    known: what the encoder has read before, so that no concept prompt is encoded twice. Raises nothing of its own;
    ``encode`` may.
    """

    def __init__(self, gates: Sequence[Gate], encode: Encode, known: EncodingCache | None = None):
        self.gates = list(gates)
        prompts = [(g, p) for g, gate in enumerate(self.gates) for p in gate.prompts]
        self._fixed = torch.tensor([0.0 if gate.prompts else gate.strength for gate in self.gates])
        self._owner = torch.tensor([g for g, _ in prompts], dtype=torch.long)
        # [2, guards]: for rows whose text is known, and for those that came as embeddings alone.
        ranges = [[(g.floor, g.full) for g in self.gates], [g.range_unread for g in self.gates]]
        self._floor = torch.tensor([[floor for floor, _ in row] for row in ranges])
        self._span = torch.tensor([[max(full - floor, 1e-6) for floor, full in row] for row in ranges])
        self._strength = torch.tensor([gate.strength if gate.prompts else 0.0 for gate in self.gates])
        if not prompts:
            return
        known = known or EncodingCache()
        ordinary = self._ordinary = known.ordinary_of(encode)
        texts = [p for _, p in prompts]
        parts, ids = known.read(texts, encode)
        self._tokens = self._unit(torch.cat(parts))
        official = [self.gates[g].metric == "official" for g, _ in prompts]
        weights = [ordinary.weights(row) for row in ids]
        device = self._tokens.device
        lengths = torch.tensor([len(p) for p in parts], device=device)
        self._prompt_of = torch.repeat_interleave(torch.arange(len(parts), device=device), lengths)
        self._weights = torch.tensor([w for row in weights for w in row], device=device)
        postings: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for i, row in enumerate(ids):
            distinct = dict(zip(row, weights[i]))
            for token, weight in distinct.items():
                share = 1 / len(distinct) if official[i] else weight / sum(distinct.values())
                postings[token].append((i, share))
        # Which prompts have a token, and how much of each it is.
        self._postings = {
            token: (torch.tensor([i for i, _ in found]), torch.tensor([share for _, share in found]))
            for token, found in postings.items()
        }
        self._official = torch.tensor(official)
        self._flat = None
        if any(official):  # whole encodings, which nothing else needs
            whole = [encode(texts[i : i + 64]).embeds.float() for i in range(0, len(texts), 64)]
            self._flat = normalize(torch.cat(whole).flatten(1), dim=1)

    def _unit(self, tokens: Tensor) -> Tensor:
        return normalize(self._ordinary.whiten(tokens), dim=-1)

    def similarity(self, embeds: Tensor, ids: Sequence[Sequence[int] | None]) -> Tensor:
        """Similarity of every row to every concept prompt, [rows, prompts], on the CPU.

        embeds: [rows, tokens, width]; ids: token ids of each row where known. Without ids, or where they have learnt
        words among them, every position counts but the begin tokens, so padding can only add to the similarity: an
        unknown text is never under-guarded.
        """
        own = [
            row[1 : 1 + max(len(known), 1)] if known is not None and is_read(known) else _without_begins(row)
            for row, known in zip(embeds, ids)
        ]
        found = self.similarity_of_content(own, ids)
        if self._flat is not None:
            flat, size = embeds.float().flatten(1), self._flat.shape[1]
            # Of a text of several windows as much as one has, as in the official code; the overlap sees the rest.
            flat = torch.nn.functional.pad(flat, (0, max(size - flat.shape[1], 0)))[:, :size]
            flat = normalize(flat, dim=1) @ self._flat.to(embeds.device).T
            overlap = self._overlap(ids)
            found = torch.where(self._official, torch.maximum(flat.cpu(), overlap), found)
        return found

    def similarity_of_content(self, own: Sequence[Tensor], ids: Sequence[Sequence[int] | None]) -> Tensor:
        """The same from each text's own tokens, [tokens, width] a row; by the token metric, whatever the gate's."""
        rows, count = len(own), len(self._owner)
        near = self._unit(torch.cat(list(own))) @ self._tokens.to(own[0].device).T
        near = torch.stack([part.amax(0) for part in near.split([len(part) for part in own])])
        prompt_of = self._prompt_of.to(near.device)
        found = near.new_zeros(rows, count).index_add_(1, prompt_of, near * self._weights.to(near.device)).cpu()
        return torch.maximum(found, self._overlap(ids))

    def _overlap(self, ids: Sequence[Sequence[int] | None]) -> Tensor:
        """How much of each concept prompt's tokens a text has, by weight: [rows, prompts]."""
        overlap = torch.zeros(len(ids), len(self._owner))
        for row, known in enumerate(ids):
            for token in {*(known or ()), *(known.near if isinstance(known, Unlisted) else ())}:
                if token in self._postings:
                    overlap[row].index_add_(0, *self._postings[token])
        return overlap

    def __call__(self, embeds: Tensor, ids: Sequence[Sequence[int] | None]) -> Tensor:
        """Gates [rows, guards] on the CPU, strengths included."""
        rows = embeds.shape[0]
        out = self._fixed.expand(rows, -1).clone()
        if not len(self._owner):
            return out
        best = torch.full((rows, len(self.gates)), -1.0)
        best.scatter_reduce_(1, self._owner.expand(rows, -1), self.similarity(embeds, ids), "amax")
        which = torch.tensor([int(not is_read(known)) for known in ids])
        share = (best - self._floor[which]) / self._span[which]
        if share.requires_grad and not ((share > 0) & (share < 1)).any():
            share = share.detach()  # shut or wide open, which no small change changes: no layer need pass a gradient on
        return out + share.clamp(0, 1) * self._strength


def _without_begins(row: Tensor) -> Tensor:
    """An embedding [tokens, width] without its begin token, and without those of further windows behind the first: a
    begin token sees nothing before it, so that all of them are alike."""
    begin, rest = row[0], row[1:]
    size = begin.norm()
    if not size:  # no begin token: of an encoder that has none
        return rest
    own = rest[(rest - begin).norm(dim=1) > ALIKE * size]
    return own if len(own) else rest[:1]
