"""What the hooks of language guards are handed: the prompts of a generation, one token's scores, one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .receipt import Reading, Touch

if TYPE_CHECKING:
    from .lineage import Came
    from .method import Method

LISTED = 8  # tokens that a receipt names for one row and call, the likeliest first
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


@dataclass(frozen=True, eq=False)
class Tongue:
    """A language model's tokens. pieces: the bytes that every id stands for, empty for special tokens, None for ids
    that the tokenizer does not have; stops: ids that end a text."""

    pieces: Sequence[bytes | None]
    special: frozenset[int]
    stops: frozenset[int]
    decode: Callable[[Sequence[int]], str]
    encode: Callable[[Sequence[str]], list[list[int]]]


class Decoding:
    """The next token of every row.

    ids: [rows, tokens], prompts (left-padded) included; of the decoder where the model has an encoder too
    scores: [rows, vocabulary], float32, as the guards so far leave them; logits, or log-probabilities under beam
    search. Change them by the methods below, which tell the receipt.
    original: the same before any guard, never changed
    begin: how many of the tokens are prompt, padding included
    prompt_of: for every row its prompt in ``asked``
    came: where every row comes from: beams are reordered, drafts rolled back. ``lineage.Follow`` keeps what a guard
    knows of a row with it.
    call: the how manieth of this generation, from 0
    """

    __slots__ = (
        "_changes", "asked", "begin", "call", "came", "ids", "original", "prompt_of", "scores", "tongue",
    )  # fmt: skip

    def __init__(
        self, ids: Tensor, scores: Tensor, begin: int, asked: Asked, prompt_of: list[int], came: Came, tongue: Tongue,
        call: int,
    ):  # fmt: skip
        self.ids, self.scores, self.original = ids, scores, scores
        self.begin, self.asked, self.prompt_of, self.came, self.tongue, self.call = (
            begin, asked, prompt_of, came, tongue, call,
        )  # fmt: skip
        self._changes: list[tuple[Method, Mapping[int, Tensor] | Tensor, str]] = []

    def text(self, row: int) -> str:
        """What a row says so far, without its prompt and special tokens."""
        return self.tongue.decode(self.ids[row, self.begin :].tolist())

    def live(self, row: int) -> bool:
        """Whether a row still says something: what comes after its end is padding."""
        return self.ids.shape[1] == self.begin or int(self.ids[row, -1]) not in self.tongue.stops

    def forbid(self, by: Method, tokens: Tensor | Mapping[int, Tensor]) -> None:
        """No row goes on with one of ``tokens``, int64 [n]; or with those of its own, row -> [n]."""
        if isinstance(tokens, Tensor):
            fill = self.scores.index_fill if self.scores is self.original else self.scores.index_fill_
            self.scores = fill(1, tokens, -math.inf)
        else:
            width = self.scores.shape[1]
            flat = torch.cat([own + row * width for row, own in tokens.items()])
            self._own().view(-1).index_fill_(0, flat, -math.inf)
        self._changes.append((by, tokens, "forbidden"))

    def penalise(self, by: Method, tokens: Tensor, amount: float | Tensor, row: int) -> None:
        """A row goes on with ``tokens``, int64 [n], less gladly: ``amount``, [n] or one for all, off their scores."""
        self._own()[row, tokens] -= amount
        self._changes.append((by, {row: tokens}, "penalised"))

    def force(self, by: Method, token: int, row: int) -> None:
        """A row goes on with this token and no other."""
        kept = float(self.original[row, token])
        self._own()[row] = -math.inf
        self.scores[row, token] = kept if math.isfinite(kept) else 0.0
        self._changes.append((by, {row: torch.tensor([token], device=self.scores.device)}, "forced"))

    def _own(self) -> Tensor:
        if self.scores is self.original:
            self.scores = self.original.clone()  # the caller may keep what it gave
        return self.scores

    def tell(self) -> list[int]:
        """Put into the receipt what was in reach: thousands of tokens are no candidates at any rate. Gives the rows
        that no token is left for."""
        if self.scores is self.original:
            return []
        left = self.scores.amax(1).tolist()
        for by, tokens, change in self._changes:
            if isinstance(tokens, Tensor):
                best = self.original.index_select(1, tokens).amax(1).tolist() if len(tokens) else []
                touched: Iterable[tuple[int, Tensor]] = ((r, tokens) for r, b in enumerate(best) if b > left[r] - REACH)
            else:
                touched = tokens.items()
            for row, own in touched:
                if self.live(row):
                    self._touch(by, row, own, left[row], change)
        return [row for row, score in enumerate(left) if score == -math.inf]

    def _touch(self, by: Method, row: int, tokens: Tensor, left: float, change: str) -> None:
        found = self.original[row, tokens].topk(min(LISTED, len(tokens)))
        best = found.values.tolist()
        near = max(best[0], left) - REACH
        named = [t for t, s in zip(tokens[found.indices].tolist(), best) if s > near or change == "forced"]
        if named:
            said = [self.tongue.decode([token]) for token in named]
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
