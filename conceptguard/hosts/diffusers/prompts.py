"""Conditions as they come out of a pipeline's text encoders: shown to the guards, remembered by their embeddings.

What reaches the denoiser is embeddings. Whose they are, which text and which branch, is known of those that were
encoded while a policy was attached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...generation.conditioning import Branch, Encoded, Prompts
from ...generation.unlisted import Unlisted
from ..denoising.text_encoders import as_one

if TYPE_CHECKING:
    from ...protocols import DrawingSession
    from ..denoising.families import Family
    from .encoding_options import Options

TYPED = ("prompt", "prompt_2", "prompt_3")  # what each text encoder is given
_PARTS = ("", "prompt"), ("negative_", "negative_prompt")  # of what encode_prompt returns, and what was typed


class Seen(NamedTuple):
    """A condition that was encoded, and in which pipeline call."""

    embeds: Tensor
    pooled: Tensor | None
    text: str | None
    ids: list[int] | None
    branch: Branch
    call: int
    prompts: tuple[str, ...] | None
    options: Options = MappingProxyType({})
    read: Tensor | None = None


class Memory:
    """The conditions of the last calls. encoded: how often the running call has encoded prompts; options: how, see
    ``encoding_options``.

    nothing: gives what no words are encoded to, where somebody asks, or None for what cannot be told by it
    """

    def __init__(self, nothing: Callable[[], Encoded | None]) -> None:
        self._seen: deque[Seen] = deque(maxlen=256)
        self._call = self.encoded = 0
        self._nothing = nothing
        self.options: Options = {}

    def begin(self) -> None:
        """A pipeline call begins."""
        self._call += 1
        self.encoded = 0
        self.options = {}

    def clear(self) -> None:
        """Forget all."""
        self._seen.clear()
        self.options = {}

    def add(
        self,
        row: Tensor,
        pooled: Tensor | None,
        text: str | None,
        ids: list[int] | None,
        branch: Branch,
        prompts: tuple[str, ...] | None,
        read: Tensor | None = None,
    ) -> None:
        """Keep one condition: [tokens, width] and, where the pipeline has it, a pooled [width].

        read: the embedding as gates read the text, where that is another one
        """
        kept = None if pooled is None else pooled.detach().clone()
        self._seen.append(Seen(row.detach().clone(), kept, text, ids, branch, self._call, prompts, self.options, read))

    def known(self, row: Tensor, away: bool, pooled: Tensor | None = None) -> Seen | None:
        """What is known of a condition: that it was encoded, or that it says nothing, however it came."""
        return self.recall(row, away, pooled) or self._empty(row, pooled)

    def _empty(self, row: Tensor, pooled: Tensor | None) -> Seen | None:
        """Zeros, or one or more windows without words. Of encoders without a begin token nobody tells."""
        nothing = self._nothing()
        if nothing is None:
            return None
        window = nothing.embeds[0].to(row)
        if len(row) % len(window) or row.shape[1] != window.shape[1]:
            return None
        parts = row.view(-1, *window.shape)
        beside = pooled is None or not pooled.any() or (nothing.pooled is not None and _near(pooled, nothing.pooled[0]))
        if not beside or not (not row.any() or all(_near(part, window) for part in parts)):
            return None
        return Seen(row, pooled, "", [], "unconditional", self._call, ("",) * len(TYPED))

    def recall(self, row: Tensor, away: bool, pooled: Tensor | None = None) -> Seen | None:
        """The last condition with this embedding. Of a prompt and a negative prompt that are alike, the one asked for.

        away: whether the row stands where guided pipelines put their negative prompts
        pooled: what comes with it. Of another text than the embedding's, both are what the row asks for; None is
        answered where it is of no text that was seen.
        """
        last = self._last(row, away, lambda seen: seen.embeds)
        if last is None or pooled is None or _alike(last.pooled, pooled):
            return last
        other = self._last(pooled, away, lambda seen: seen.pooled)
        if other is None or other.text is None or last.text is None:
            return None
        both = as_one([last.text, other.text])
        branch = last.branch if last.branch == other.branch else "conditional"
        return last._replace(text=both, ids=Unlisted.joined(last.ids, other.ids), branch=branch, prompts=None)

    def _last(self, row: Tensor, away: bool, part: Callable[[Seen], Tensor | None]) -> Seen | None:
        alike = (seen for seen in reversed(self._seen) if _alike(part(seen), row))
        last = next(alike, None)
        if last is None or (last.branch != "conditional") == away:
            return last
        return next((s for s in alike if s.call == last.call and (s.branch != "conditional") == away), last)


def _alike(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.shape == other.shape and torch.equal(one.to(other), other)


def _near(one: Tensor, other: Tensor) -> bool:
    """Whether two embeddings are the same but for the rounding of half precision."""
    return bool((one - other.to(one)).float().norm() <= 0.005 * one.float().norm())


def texts_of(value: Any, rows: int) -> list[str | None]:
    """One text per row: a prompt is repeated for each of its images."""
    if value is None or isinstance(value, str):
        return [value] * rows
    return [text for text in value for _ in range(rows // max(len(value), 1))]


def _typed(arguments: Mapping[str, Any], key: str, rows: int) -> list[tuple[str, ...] | None]:
    """What was typed for each encoder of each row; who gave none for a later one meant the first one's."""
    found = [texts_of(arguments.get(f"{key}{name.removeprefix('prompt')}"), rows) for name in TYPED]
    return [tuple(t or own[0] or "" for t in own) if any(t is not None for t in own) else None for own in zip(*found)]


def guarded(
    session: DrawingSession,
    family: Family,
    memory: Memory,
    arguments: Mapping[str, Any],
    encoded: tuple[Any, ...],
    away: bool,
    tokens: Callable[[list[str]], list[list[int]]],
    encode: Callable[[list[str]], Encoded],
    encode_negative: Callable[[list[str]], Encoded],
    read: Callable[[list[str]], Encoded] | None,
) -> tuple[Any, ...]:
    """What an ``encode_prompt`` returned, after guards have seen every condition of it; all is remembered.

    arguments: what it was called with; away: whether this is the call for the negative prompt of a pipeline that
    encodes it by itself
    read: texts as gates read them, where this call encodes them otherwise
    """
    out = list(encoded)

    def pooled_of(part: str, count: int) -> Sequence[Tensor | None]:
        return out[at[f"{part}pooled"]] if f"{part}pooled" in at else [None] * count  # type: ignore[no-any-return]

    texts: list[str | None] = []
    ids: list[list[int] | None] = []
    typed: list[tuple[str, ...] | None] = []
    branches: list[Branch] = []
    at: dict[str, int] = {role: i for i, role in enumerate(family.encoded[: len(out)]) if isinstance(out[i], Tensor)}
    parts = [(part, key) for part, key in _PARTS if f"{part}embeds" in at]
    for part, key in parts:
        embeds, negative = out[at[f"{part}embeds"]], part == "negative_" or away
        if arguments.get(f"{key}_embeds") is None:
            given = _typed(arguments, key, len(embeds))
            given = [t or ("",) * len(TYPED) for t in given] if negative else given
            own = [None if t is None else as_one(t) for t in given]
            ids += [None if t is None else tokens([t])[0] for t in own]
        else:  # embeddings, maybe of a text that was encoded under this session
            known = [memory.known(row, negative, p) for row, p in zip(embeds, pooled_of(part, len(embeds)))]
            given = [seen.prompts if seen else None for seen in known]
            own = [seen.text if seen else None for seen in known]
            ids += [seen.ids if seen else None for seen in known]
        texts += own
        typed += given
        branches += ["conditional" if not negative else "unconditional" if t == "" else "negative" for t in own]
    rows = torch.cat([out[at[f"{part}embeds"]] for part, _ in parts])
    if session.has("encode_prompt"):
        pools = [at[f"{part}pooled"] for part, _ in parts if f"{part}pooled" in at]
        pooled = torch.cat([out[i] for i in pools]) if pools else None
        before, prompts = list(texts), Prompts(texts, ids, rows, pooled, branches, encode, encode_negative)
        session.encode_prompt(prompts)
        for i, text in enumerate(prompts.texts):
            if text is not None and text != before[i]:
                typed[i] = (text,) * len(TYPED)
        texts, ids, rows = prompts.texts, prompts.ids, prompts.embeds
        slots = [at[f"{part}embeds"] for part, _ in parts]
        for i, changed in zip(slots, rows.split([len(out[i]) for i in slots])):
            out[i] = changed
        if prompts.pooled is not None:
            for i, changed in zip(pools, prompts.pooled.split([len(out[i]) for i in pools])):
                out[i] = changed
    beside = [p for part, _ in parts for p in pooled_of(part, len(out[at[f"{part}embeds"]]))]
    plain: list[Tensor | None] = [None] * len(texts)
    if read is not None and any(text is not None for text in texts):
        as_read = read([text or "" for text in texts]).embeds
        plain = [None if text is None else own for text, own in zip(texts, as_read)]
    for row, vector, text, own_ids, branch, asked, own in zip(rows, beside, texts, ids, branches, typed, plain):
        memory.add(row, vector, text, own_ids, branch, asked, own)
    return tuple(out)
