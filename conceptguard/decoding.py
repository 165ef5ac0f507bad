"""What the hooks of language guards are handed: the prompts of a generation, one token's scores, one sentence."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from .grid import Columns, Grid, Places, grid_of
from .receipt import Reading, Touch

if TYPE_CHECKING:
    from .lineage import Came
    from .method import Method

LISTED = 8  # tokens that a receipt names for one row and call, the likeliest first
SAMPLES = 8
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

    @cached_property
    def unknown(self) -> frozenset[int]:
        """Ids below the highest one that the tokenizer does not have."""
        return frozenset(i for i, piece in enumerate(self.pieces) if piece is None)

    @cached_property
    def samples(self) -> tuple[int, ...]:
        """A few ids of all kinds: where all rows may say one of them, none is stuck."""
        return (*range(0, len(self.pieces), max(len(self.pieces) // SAMPLES, 1)), *sorted(self.stops)[:1])


Ids = Sequence[int] | np.ndarray | Tensor


class Decoding:
    """The next token of every row.

    ids: [rows, tokens], prompts (left-padded) included; of the decoder where the model has an encoder too
    last: the last token of every row, [] before there is any
    scores: [rows, vocabulary], float32, as the guards so far leave them; logits, or log-probabilities under beam
    search. Change them by the methods below, which tell the receipt.
    begin: how many of the tokens are prompt, padding included
    prompt_of: for every row its prompt in ``asked``
    came: where every row comes from: beams are reordered, drafts rolled back. ``lineage.Follow`` keeps what a guard
    knows of a row with it.
    call: the how manieth of this generation, from 0
    revocable: whether what a row has said can be taken back, see ``regret``
    """

    __slots__ = (
        "_narrow", "_view", "_wide", "asked", "begin", "call", "came", "changed", "ids", "last", "prompt_of", "regrets",
        "revocable", "scores", "tongue",
    )  # fmt: skip

    def __init__(
        self, ids: Tensor, last: list[int], scores: Tensor, begin: int, asked: Asked, prompt_of: list[int], came: Came,
        tongue: Tongue, call: int, revocable: bool = False,
    ):  # fmt: skip
        self.ids, self.last, self.scores, self.begin, self.asked = ids, last, scores, begin, asked
        self.prompt_of, self.came, self.tongue, self.call = prompt_of, came, tongue, call
        self.revocable = revocable
        self.regrets: dict[int, tuple[Method, int]] = {}
        self.changed = False  # whether any score is
        self._view: Grid | None = None
        self._wide: list[tuple[Method, Columns, Any]] = []
        self._narrow: list[tuple[Method, str, Places, np.ndarray, Any]] = []

    @property
    def _grid(self) -> Grid:
        if self._view is None:
            self._view = grid_of(self.scores)
        return self._view

    def text(self, row: int) -> str:
        """What a row says so far, without its prompt and special tokens."""
        return self.tongue.decode(self.ids[row, self.begin :].tolist())

    def live(self, row: int) -> bool:
        """Whether a row still says something: what comes after its end is padding."""
        return self.ids.shape[1] == self.begin or self.last[row] not in self.tongue.stops

    def forbid(self, by: Method, tokens: Tensor | Columns | Mapping[int, Ids]) -> None:
        """No row goes on with one of ``tokens``, int64 [n]; or none with those of its own, row -> ids.

        ``Columns`` are made once, of tokens that are forbidden again and again.
        """
        if isinstance(tokens, Tensor):
            tokens = Columns(tokens)
        if not isinstance(tokens, Columns):
            self._forbid(by, tokens)
        elif len(tokens.ids):
            grid = self._grid
            self._wide.append((by, tokens, grid.columns(tokens)))
            grid.close(tokens)
            self.changed = True

    def _forbid(self, by: Method, tokens: Mapping[int, Ids]) -> None:
        own = [_array(ids) for ids in tokens.values()]
        if len(own) == 1:
            self._change(by, "forbidden", next(iter(tokens)), own[0], -math.inf)
        elif own:
            rows = np.repeat(_array([*tokens]), [len(ids) for ids in own])
            self._change(by, "forbidden", rows, np.concatenate(own), -math.inf)

    def penalise(self, by: Method, tokens: Ids, amounts: Sequence[float] | Tensor, row: int) -> None:
        """A row goes on with ``tokens`` less gladly: ``amounts`` come off their scores."""
        ids = _array(tokens)
        scores = self._grid.numbers(self._grid.at(row, ids))
        self._change(by, "penalised", row, ids, scores - np.asarray(_list(amounts), dtype=np.float32))

    def force(self, by: Method, token: int, row: int) -> None:
        """A row goes on with this token and no other."""
        before = float(self.scores[row, token])
        self.scores[row] = -math.inf
        self._change(by, "forced", row, _array([token]), before if math.isfinite(before) else 0.0)

    def keep(self, tokens: Tensor, row: int) -> None:
        """A row goes on with one of ``tokens``, int64 [n]. The others were not looked at, and no receipt names them."""
        kept = self.scores[row, tokens]
        self.scores[row] = -math.inf
        self.scores[row, tokens] = kept
        self.changed = True

    def regret(self, by: Method, row: int, first: int) -> None:
        """What a row says from its token ``first`` on leads nowhere: it is taken back and begins with another token.

        Nothing happens where text cannot be taken back: forbid what must not be said all the same.
        """
        if self.revocable:
            self.regrets.setdefault(row, (by, first))

    def _change(self, by: Method, kind: str, rows: Places, tokens: np.ndarray, scores: np.ndarray | float) -> None:
        self._narrow.append((by, kind, rows, tokens, self._grid.at(rows, tokens)))
        self._grid.put(rows, tokens, scores)
        self.changed = True

    def stuck(self) -> list[int]:
        """Rows that the guards leave no token for."""
        if not self.changed or any(map(self._grid.open, self.tongue.samples)):
            return []
        return [row for row, best in enumerate(self._grid.best()) if best == -math.inf]

    def tell(self, said: list[int] | None) -> None:
        """Put into the receipt which of the tokens that guards changed were in reach of what was said instead.

        said: the next token of every row; None where that is not known, for the likeliest one
        """
        if not (self._wide or self._narrow):
            return
        grid = self._grid
        left = grid.best() if said is None else grid.said(said)
        lowest = min(left) - REACH
        for by, tokens, columns in self._wide:
            best = grid.best(columns)
            if max(best) > lowest:
                for row in [row for row, (score, own) in enumerate(zip(best, left)) if score > own - REACH]:
                    near = heapq.nlargest(LISTED, grid.over(columns, row, max(best[row], left[row]) - REACH))
                    self._touch(by, "forbidden", row, [(score, int(tokens.ids[at])) for score, at in near])
        for by, kind, rows, ids, scores in self._narrow:
            before = grid.numbers(scores)
            if before.max() > lowest or kind == "forced":
                touched: dict[int, list[tuple[float, int]]] = {}
                cells = zip(np.broadcast_to(rows, ids.shape).tolist(), ids.tolist(), before.tolist())
                for row, token, score in cells:
                    if kind == "forced" or score > left[row] - REACH:
                        touched.setdefault(row, []).append((score, token))
                for row, found in touched.items():
                    self._touch(by, kind, row, found)
        self._wide, self._narrow = [], []

    def _touch(self, by: Method, kind: str, row: int, found: list[tuple[float, int]]) -> None:
        if self.live(row):
            said = [self.tongue.decode([token]) for _, token in heapq.nlargest(LISTED, found)]
            by.act.touched.append(Touch(row, self.ids.shape[1] - self.begin, said, kind))


def _list(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, Tensor) else list(values)


def _array(ids: Ids) -> np.ndarray:
    return ids if isinstance(ids, np.ndarray) else np.array(_list(ids), dtype=np.int64)


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
    rejected: list[tuple[Method, str, float, int]] = field(default_factory=list)

    def reject(self, by: Method, label: str, score: float, budget: int) -> None:
        """Say it another way. After ``budget`` sentences taken back, a row ends before the one that was next."""
        self.rejected.append((by, label, score, budget))
