"""Gates: how far a guard's terms open for one row, 0 to 1, from what the row asks for.

Facilitated transport (SPM, Lyu et al. 2024) opens a membrane as far as the prompt resembles its concept. The official
metric compares flattened encodings, begin token and padding included, which gives every prompt a high floor. Here a
prompt is compared token by token: the concept's tokens, each with the position of the prompt nearest to it, in encodings
whose common mean (over ordinary captions) is taken out. Between a measured ``floor`` and ``full`` the gate is linear,
below the floor it is exactly zero.

Gates of all guards come from one matrix product, so that a thousand concepts cost one prompt a few milliseconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from .generation import Encoded

Encode = Callable[[list[str]], Encoded]


@dataclass(frozen=True)
class Gate:
    """When and how far terms open.

    prompts: what evokes the concept; empty opens always
    strength: what a fully open gate is worth
    floor, full: similarities where the gate starts to open and where it is fully open
    metric: "token" as above, or "official", the arithmetic of the SPM repository
    """

    prompts: tuple[str, ...] = ()
    strength: float = 1.0
    floor: float = 0.0
    full: float = 1.0
    metric: Literal["token", "official"] = "token"


def ordinary_captions() -> list[str]:
    """Everyday captions without any particular concept: the measure of what is unrelated."""
    return (Path(__file__).parent / "captions.txt").read_text(encoding="utf-8").split("\n")[:-1]


def content(encoded: Encoded) -> list[Tensor]:
    """The encodings of each text's own tokens, [tokens, width] per row, without begin, end and padding."""
    return [e[1 : 1 + max(len(ids), 1)] for e, ids in zip(encoded.embeds, encoded.ids)]


class GateBank:
    """The gates of all guards of a session for one encoder. Encodes every concept prompt once, at attach.

    Raises nothing of its own; ``encode`` may.
    """

    def __init__(self, gates: Sequence[Gate], encode: Encode, mean: Tensor | None = None):
        self.gates = list(gates)
        prompts = [(g, p) for g, gate in enumerate(self.gates) for p in gate.prompts]
        self._fixed = torch.tensor([0.0 if gate.prompts else gate.strength for gate in self.gates])
        self._owner = torch.tensor([g for g, _ in prompts], dtype=torch.long)
        self._floor = torch.tensor([gate.floor for gate in self.gates])
        self._span = torch.tensor([max(gate.full - gate.floor, 1e-6) for gate in self.gates])
        self._strength = torch.tensor([gate.strength if gate.prompts else 0.0 for gate in self.gates])
        if not prompts:
            return
        self._mean = token_mean(encode) if mean is None else mean
        texts = [p for _, p in prompts]
        encoded = [encode(texts[i : i + 64]) for i in range(0, len(texts), 64)]
        embeds = torch.cat([e.embeds for e in encoded]).float()
        ids = [row for e in encoded for row in e.ids]
        parts = content(Encoded(embeds, ids))
        self._tokens = self._unit(torch.cat(parts))
        lengths = torch.tensor([len(p) for p in parts], device=embeds.device)
        self._prompt_of = torch.repeat_interleave(torch.arange(len(parts), device=embeds.device), lengths)
        self._lengths = lengths.float()
        self._postings: dict[int, list[int]] = defaultdict(list)
        for i, row in enumerate(ids):
            for token in set(row):
                self._postings[token].append(i)
        self._distinct = torch.tensor([max(len(set(row)), 1) for row in ids], dtype=torch.float32)
        official = [self.gates[g].metric == "official" for g, _ in prompts]
        self._flat = torch.nn.functional.normalize(embeds.flatten(1), dim=1) if any(official) else None
        self._official = torch.tensor(official)

    def _unit(self, tokens: Tensor) -> Tensor:
        return torch.nn.functional.normalize(tokens.float() - self._mean.to(tokens.device), dim=-1)

    def similarity(self, embeds: Tensor, ids: Sequence[Sequence[int] | None]) -> Tensor:
        """Similarity of every row to every concept prompt, [rows, prompts], on the CPU.

        embeds: [rows, tokens, width]; ids: token ids of each row where known. Without ids every position but the
        first counts, so padding can only add to the similarity: an unknown text is never under-guarded.
        """
        rows, width = embeds.shape[:2]
        near = self._unit(embeds) @ self._tokens.to(embeds.device).T
        for row, known in enumerate(ids):
            near[row, 0] = -1
            if known is not None:
                near[row, 1 + max(len(known), 1) :] = -1
        near = near.amax(dim=1)
        prompt_of = self._prompt_of.to(near.device)
        count = len(self._lengths)
        found = near.new_zeros(rows, count).index_add_(1, prompt_of, near) / self._lengths.to(near.device)
        found = found.cpu()
        overlap = torch.zeros(rows, count)
        for row, known in enumerate(ids):
            for token in set(known or ()):
                for prompt in self._postings.get(token, ()):
                    overlap[row, prompt] += 1
        overlap /= self._distinct
        if self._flat is not None:
            flat = torch.nn.functional.normalize(embeds.float().flatten(1), dim=1) @ self._flat.to(embeds.device).T
            found = torch.where(self._official, flat.cpu(), found)
        return torch.maximum(found, overlap)

    def __call__(self, embeds: Tensor, ids: Sequence[Sequence[int] | None]) -> Tensor:
        """Gates [rows, guards] on the CPU, strengths included."""
        rows = embeds.shape[0]
        out = self._fixed.expand(rows, -1).clone()
        if not len(self._owner):
            return out
        best = torch.full((rows, len(self.gates)), -1.0)
        best.scatter_reduce_(1, self._owner.expand(rows, -1), self.similarity(embeds, ids), "amax")
        return out + ((best - self._floor) / self._span).clamp(0, 1) * self._strength


def token_mean(encode: Encode) -> Tensor:
    """The mean encoding of a content token over ordinary captions, [width]."""
    return torch.cat(content(encode(ordinary_captions()))).float().mean(0)


def calibrate(prompts: Sequence[str], encode: Encode, captions: Sequence[str] | None = None) -> tuple[float, float]:
    """(floor, full) for a concept: just above every ordinary caption that does not name it.

    A caption whose words contain a whole concept prompt is about the concept and does not count.
    """
    bank = GateBank([Gate(prompts=tuple(prompts))], encode)
    texts = [c for c in (captions or ordinary_captions()) if not any(p.lower() in c.lower() for p in prompts)]
    highest = -1.0
    for i in range(0, len(texts), 64):
        part = encode(texts[i : i + 64])
        highest = max(highest, float(bank.similarity(part.embeds, part.ids).max()))
    floor = min(highest + 0.02, 0.98)
    return floor, floor + (1 - floor) / 2
