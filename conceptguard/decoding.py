"""What the hooks of language guards are handed: the prompts of a generation, one token's scores, one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .receipt import Reading, Touch

if TYPE_CHECKING:
    from .lineage import Came
    from .method import Method

REACH = math.log(100)  # a token this far below its row's best, in nats, would hardly have been said


@dataclass
class Asked:
    """The prompts of one generation, each once: beams and several texts of one prompt share it.

    texts: decoded without special tokens; None where the caller passed embeddings or encoder outputs
    ids: token ids without padding, None with the text; of the encoder where the model has one
    pool: layer -> the model's hidden states of every prompt, a mean over its tokens: [prompts, width]; layer as in
    transformers' ``hidden_states``: -1 is the last, -2 the last but one. Raises GuardError for prompts without ids.
    """

    texts: list[str | None]
    ids: list[list[int] | None]
    pool: Callable[[int], Tensor]

    def tell(self, by: Method, prompt: int, label: str, score: float | None = None) -> None:
        """Put into the receipt how a guard read a prompt, e.g. as "forget" with score 0.97."""
        by.act.readings.append(Reading(prompt, label, score))


class Tongue(NamedTuple):
    """A language model's tokens. pieces: the bytes that every id stands for, empty for special tokens, None for ids
    that the tokenizer does not have; stops: ids that end a text."""

    pieces: Sequence[bytes | None]
    special: frozenset[int]
    stops: frozenset[int]
    decode: Callable[[Sequence[int]], str]
    encode: Callable[[str], list[int]]


@dataclass
class Decoding:
    """The next token of every row.

    ids: [rows, tokens], prompts (left-padded) included; of the decoder where the model has an encoder too
    scores: [rows, vocabulary], float32; logits, or log-probabilities under beam search. Change it by the methods
    below, which tell the receipt.
    begin: how many of the tokens are prompt, padding included
    prompt_of: for every row its prompt in ``asked``
    came: where every row comes from: beams are reordered, drafts rolled back. ``lineage.Follow`` keeps what a guard
    knows of a row with it.
    call: the how manieth of this generation, from 0
    """

    ids: Tensor
    scores: Tensor
    begin: int
    asked: Asked
    prompt_of: list[int]
    came: Came
    tongue: Tongue
    call: int
    original: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.original = self.scores

    def text(self, row: int) -> str:
        """What a row says so far, without its prompt and special tokens."""
        return self.tongue.decode(self.ids[row, self.begin :].tolist())

    def live(self, row: int) -> bool:
        """Whether a row still says something: what comes after its end is padding."""
        return self.ids.shape[1] == self.begin or int(self.ids[row, -1]) not in self.tongue.stops

    def forbid(self, by: Method, tokens: Tensor, rows: Sequence[int] | None = None) -> None:
        """No row (or none of ``rows``) goes on with one of ``tokens``, int64 [n]."""
        scores, all_rows = self._own(), rows is None
        if all_rows:
            scores.index_fill_(1, tokens, -math.inf)
        else:
            scores[torch.as_tensor(rows, device=tokens.device)[:, None], tokens] = -math.inf
        self._tell(by, tokens, range(len(scores)) if rows is None else rows, "forbidden")

    def penalise(self, by: Method, tokens: Tensor, amount: float | Tensor, row: int) -> None:
        """A row goes on with ``tokens``, int64 [n], less gladly: ``amount``, [n] or one for all, off their scores."""
        self._own()[row, tokens] -= amount
        self._tell(by, tokens, [row], "penalised")

    def force(self, by: Method, token: int, row: int) -> None:
        """A row goes on with this token and no other."""
        scores = self._own()
        kept = float(self.original[row, token])
        scores[row] = -math.inf
        scores[row, token] = kept if math.isfinite(kept) else 0.0
        if int(self.original[row].argmax()) != token:
            self._touch(by, row, [token], "forced")

    def _own(self) -> Tensor:
        if self.scores is self.original:
            self.scores = self.original.clone()  # the caller may keep what it gave
        return self.scores

    def _tell(self, by: Method, tokens: Tensor, rows: Sequence[int], change: str) -> None:
        """Into the receipt, what would have been in reach: thousands of tokens are no candidates at any rate."""
        chosen = self.original if len(rows) == len(self.original) else self.original[list(rows)]
        best = chosen.amax(1)
        before = chosen[:, tokens]
        near = before.amax(1) > best - REACH if len(tokens) else torch.zeros(len(rows), dtype=torch.bool)
        for i in near.nonzero()[:, 0].tolist():
            if self.live(rows[i]):
                self._touch(by, rows[i], tokens[before[i] > best[i] - REACH].tolist(), change)

    def _touch(self, by: Method, row: int, tokens: list[int], change: str) -> None:
        said = [self.tongue.decode([token]) for token in tokens]
        by.act.touched.append(Touch(row, self.ids.shape[1] - self.begin, said, change))


@dataclass
class Sentence:
    """A finished sentence of one row, before anybody reads it. Only sessions that can take text back have these.

    text: the sentence alone; before: what the row said before it; first: its first token's place in the row's text
    """

    text: str
    before: str
    row: int
    prompt: int
    first: int
    asked: Asked
    rejected: list[tuple[Any, str, float, int]] = field(default_factory=list)

    def reject(self, by: Method, label: str, score: float, budget: int) -> None:
        """Say it another way. After ``budget`` sentences taken back, a row ends before the one that was next."""
        self.rejected.append((by, label, score, budget))
