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

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
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

    def __init__(self, gates: Sequence[Gate], encode: Encode, ordinary: Ordinary | None = None):
        self.gates = list(gates)
        prompts = [(g, p) for g, gate in enumerate(self.gates) for p in gate.prompts]
        self._fixed = torch.tensor([0.0 if gate.prompts else gate.strength for gate in self.gates])
        self._owner = torch.tensor([g for g, _ in prompts], dtype=torch.long)
        self._floor = torch.tensor([gate.floor for gate in self.gates])
        self._span = torch.tensor([max(gate.full - gate.floor, 1e-6) for gate in self.gates])
        self._strength = torch.tensor([gate.strength if gate.prompts else 0.0 for gate in self.gates])
        if not prompts:
            return
        ordinary = self._ordinary = ordinary or Ordinary.measure(encode)
        texts = [p for _, p in prompts]
        encoded = [encode(texts[i : i + 64]) for i in range(0, len(texts), 64)]
        embeds = torch.cat([e.embeds for e in encoded]).float()
        ids = [row for e in encoded for row in e.ids]
        parts = content(Encoded(embeds, ids))
        self._tokens = self._unit(torch.cat(parts))
        official = [self.gates[g].metric == "official" for g, _ in prompts]
        weights = [ordinary.weights(row) for row in ids]
        device = embeds.device
        lengths = torch.tensor([len(p) for p in parts], device=device)
        self._prompt_of = torch.repeat_interleave(torch.arange(len(parts), device=device), lengths)
        self._weights = torch.tensor([w for row in weights for w in row], device=device)
        self._postings: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for i, row in enumerate(ids):
            distinct = dict(zip(row, weights[i]))
            for token, weight in distinct.items():
                share = 1 / len(distinct) if official[i] else weight / sum(distinct.values())
                self._postings[token].append((i, share))
        self._flat = torch.nn.functional.normalize(embeds.flatten(1), dim=1) if any(official) else None
        self._official = torch.tensor(official)

    def _unit(self, tokens: Tensor) -> Tensor:
        return torch.nn.functional.normalize(self._ordinary.whiten(tokens), dim=-1)

    def similarity(self, embeds: Tensor, ids: Sequence[Sequence[int] | None]) -> Tensor:
        """Similarity of every row to every concept prompt, [rows, prompts], on the CPU.

        embeds: [rows, tokens, width]; ids: token ids of each row where known. Without ids every position but the
        first counts, so padding can only add to the similarity: an unknown text is never under-guarded.
        """
        rows = len(embeds)
        near = self._unit(embeds) @ self._tokens.to(embeds.device).T
        for row, known in enumerate(ids):
            near[row, 0] = -1
            if known is not None:
                near[row, 1 + max(len(known), 1) :] = -1
        near = near.amax(dim=1)
        prompt_of = self._prompt_of.to(near.device)
        count = len(self._owner)
        found = near.new_zeros(rows, count).index_add_(1, prompt_of, near * self._weights.to(near.device)).cpu()
        overlap = torch.zeros(rows, count)
        for row, known in enumerate(ids):
            for token in set(known or ()):
                for prompt, share in self._postings.get(token, ()):
                    overlap[row, prompt] += share
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


SHRINKAGE = 0.1


@dataclass(frozen=True)
class Ordinary:
    """What ordinary captions look like to one encoder.

    mean: the mean encoding of a content token, [width]; having: in how many captions a token id occurs
    whitening: [width, width] evens out the directions in which tokens of ordinary captions differ; None: as they are
    """

    mean: Tensor
    having: Counter[int]
    whitening: Tensor | None = None

    @classmethod
    def measure(cls, encode: Encode) -> Ordinary:
        """From the captions that ship with this package."""
        encoded = encode(ordinary_captions())
        tokens = torch.cat(content(encoded)).float()
        mean = tokens.mean(0)
        values, vectors = torch.linalg.eigh((tokens - mean).T @ (tokens - mean) / len(tokens))
        # Encoders have a few huge directions that every noun shares. Shrinkage keeps those that captions hardly show.
        scale = (values.clamp(min=0) + SHRINKAGE * values.mean()).rsqrt()
        having = Counter(token for row in encoded.ids for token in set(row))
        return cls(mean, having, vectors * scale @ vectors.T)

    def whiten(self, tokens: Tensor) -> Tensor:
        """Token encodings [..., width] without what all of them have in common."""
        centred = tokens.float() - self.mean.to(tokens.device)
        return centred if self.whitening is None else centred @ self.whitening.to(tokens.device)

    def weights(self, ids: Sequence[int]) -> list[float]:
        """How much each token of a text says about it; they sum to 1. A text without tokens has one, its end."""
        raw = [1 / (1 + self.having[token]) for token in ids] or [1.0]
        return [w / sum(raw) for w in raw]


@dataclass(frozen=True)
class Calibration:
    """A measured gate.

    floor, full: similarities where it starts to open and is fully open
    false_open: share of texts to keep that open it at all; missed_open: share of the concept's own that leave it shut
    missed_open_unread: the same where only embeddings are known, so that no word can be recognised
    kept, own: how many texts were measured
    """

    floor: float
    full: float
    false_open: float = 0.0
    missed_open: float = 0.0
    missed_open_unread: float = 0.0
    kept: int = 0
    own: int = 0

    def as_dict(self) -> dict[str, float]:
        """For a manifest."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


# Between what must stay shut and the floor; less where there is less room below 1, which a text that names it reaches.
MARGIN, HIGHEST = 0.02, 0.995


def calibrate(
    prompts: Sequence[str],
    encode: Encode,
    *,
    keep: Sequence[str] = (),
    own: Sequence[str] = (),
    captions: Sequence[str] | None = None,
) -> Calibration:
    """A gate just above everything that must not open it, and fully open for the concept's own texts.

    keep: texts that must leave it shut, beside ordinary ``captions``; own: texts of the concept, by default its
    prompts. A caption whose words contain a whole concept prompt is about the concept and does not count.
    """
    bank = GateBank([Gate(prompts=tuple(prompts))], encode)
    ordinary = [c for c in (captions or ordinary_captions()) if not any(p.lower() in c.lower() for p in prompts)]
    kept = _best(bank, encode, [*ordinary, *keep])
    mine = _best(bank, encode, own or prompts)
    unread = _best(bank, encode, own or prompts, read=False)
    highest = min(float(kept.max()), HIGHEST)
    room = min(1 - highest, 4 * MARGIN) / 4
    floor = round(highest + room, 4)
    # Half-way to the weakest sight of the concept, embeddings without text, so that words nobody listed open it too.
    full = round(min(max((float(unread.min()) + floor) / 2, floor + room), 1 - room), 4)
    return Calibration(
        floor, full, _share(kept > floor), _share(mine <= floor), _share(unread <= floor), len(kept), len(mine)
    )


def _best(bank: GateBank, encode: Encode, texts: Sequence[str], read: bool = True) -> Tensor:
    """The similarity of each text to the nearest prompt of the bank, [texts]."""
    found = []
    for i in range(0, len(texts), 64):
        part = encode(list(texts[i : i + 64]))
        found.append(bank.similarity(part.embeds, part.ids if read else [None] * len(part.ids)).amax(1))
    return torch.cat(found)


def _share(hits: Tensor) -> float:
    return float(hits.float().mean())
