"""What the hooks of language guards are handed: the prompts of a generation, one token's scores, one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from ..receipt import Acting, Reading, Touch
from ..text.grid import Cells, Columns, Grid, Ids, array, grid_of
from ..text.letters import complete

if TYPE_CHECKING:
    from ..text.lineage import Came

Answer = Literal["new", "more", "none", "unheard"]
"""What scores are of a model: its new answer, more of the last one (drafts are tried many at once), none of its own, or
nobody knows."""

Ahead = Callable[[Sequence[int], Sequence[Sequence[int]]], Tensor | None]
"""What the model would say: (rows, as many lists of tokens, all of one length) -> its own scores [n, vocabulary] for
what comes after each row and these tokens. None where it cannot be asked."""

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

    def tell(self, by: Acting, prompt: int, label: str, score: float | None = None) -> None:
        """Put into the receipt how a guard read a prompt, e.g. as "forget" with score 0.97."""
        by.act.readings.append(Reading(prompt, label, score))


class Closed:
    """Which tokens guards closed in one call: what nobody may say then. Holds no scores."""

    __slots__ = ("_cells", "_only", "_width")

    def __init__(self, width: int):
        self._width = width
        self._cells: list[Cells] = []
        self._only: dict[int, tuple[set[int], int]] = {}  # what a row is left, and how many cells do not matter to it

    def add(self, cells: Cells) -> None:
        """Cells of the grid of scores."""
        if len(cells):
            self._cells.append(cells)

    def force(self, row: int, token: int) -> None:
        """A row is left one token, closed before or not."""
        self._only[row] = {token}, len(self._cells)

    def keep(self, row: int, tokens: set[int]) -> None:
        """A row is left these tokens, of those that it was left before."""
        before, since = self._only.get(row, (tokens, 0))
        self._only[row] = before & tokens, since

    def __call__(self, row: int, token: int) -> bool:
        """Whether a row's token is closed."""
        only, since = self._only.get(row, (None, 0))
        cell = row * self._width + token
        return (only is not None and token not in only) or any(
            bool((cells == cell).any()) for cells in self._cells[since:]
        )

    def tokens(self, row: int) -> np.ndarray:
        """All that are closed for a row."""
        only, since = self._only.get(row, (None, 0))
        closed = np.zeros(self._width, dtype=bool)
        begin = row * self._width
        for cells in map(array, self._cells[since:]):
            closed[cells[(cells >= begin) & (cells < begin + self._width)] - begin] = True
        if only is not None:
            closed[[token for token in range(self._width) if token not in only]] = True
        return np.flatnonzero(closed)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A language model's tokens. pieces: the bytes that every id stands for, empty for special tokens, None for ids
    that the tokenizer does not have; stops: ids that end a text; bytewise: ids of single bytes that the tokenizer shows
    run by run: where a run is no whole letters, as signs that nobody can read, those that were letters as well."""

    pieces: Sequence[bytes | None]
    special: frozenset[int]
    stops: frozenset[int]
    decode: Callable[[Sequence[int]], str]
    encode: Callable[[Sequence[str]], list[list[int]]]
    bytewise: frozenset[int] = frozenset()

    @cached_property
    def word(self) -> Callable[[int], str]:
        """What a token says by itself; found once."""
        decode = self.decode
        return cache(lambda token: decode([token]))

    def said(self, ids: Sequence[int]) -> tuple[str, bytes]:
        """What tokens say, read from their bytes, and the bytes of a last letter that is not complete yet."""
        pieces = self.pieces
        return complete(b"".join(pieces[i] or b"" for i in ids if i < len(pieces)))

    @cached_property
    def unknown(self) -> frozenset[int]:
        """Ids below the highest one that the tokenizer does not have."""
        return frozenset(i for i, piece in enumerate(self.pieces) if piece is None)

    @cached_property
    def samples(self) -> tuple[int, ...]:
        """A few ids of all kinds: where all rows may say one of them, none is stuck."""
        return (*range(0, len(self.pieces), max(len(self.pieces) // SAMPLES, 1)), *sorted(self.stops)[:1])


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
    call: a number; one more than that of the call before, where nothing came between
    revocable: whether what a row has said can be taken back, see ``regret``
    taken: tokens with which the row began here before, and was taken back; no guard leaves them
    ahead: asks the model about what a row has not said yet, see ``Ahead``; None where scores are not the model's, and
    where a host cannot ask
    """

    __slots__ = (
        "_changes", "_view", "ahead", "asked", "begin", "call", "came", "changed", "closed", "ids", "last", "prompt_of",
        "regrets", "revocable", "scores", "taken", "vocabulary",
    )  # fmt: skip

    def __init__(
        self, ids: Tensor, last: list[int], scores: Tensor, begin: int, asked: Asked, prompt_of: list[int], came: Came,
        vocabulary: Vocabulary, call: int, revocable: bool = False, ahead: Ahead | None = None,
        taken: Sequence[int] = (),
    ):  # fmt: skip
        self.ids, self.last, self.scores, self.begin, self.asked = ids, last, scores, begin, asked
        self.prompt_of, self.came, self.vocabulary, self.call = prompt_of, came, vocabulary, call
        self.revocable, self.ahead, self.taken = revocable, ahead, taken
        self.regrets: dict[int, tuple[Acting, int]] = {}
        self.changed = False  # whether any score is
        self.closed = Closed(scores.shape[1])
        self._view: Grid | None = None
        self._changes: list[tuple[Acting, str, Cells, Any]] = []  # by whom, what, where, and the scores before

    @property
    def _grid(self) -> Grid:
        if self._view is None:
            self._view = grid_of(self.scores)
        return self._view

    def text(self, row: int) -> str:
        """What a row says so far, without its prompt and special tokens."""
        return self.vocabulary.decode(self.ids[row, self.begin :].tolist())

    def so_far(self, row: int) -> tuple[str, bytes]:
        """The same as it stands on paper, and the bytes of a letter that the next token may complete."""
        return self.vocabulary.said(self.ids[row, self.begin :].tolist())

    def live(self, row: int) -> bool:
        """Whether a row still says something: what comes after its end is padding."""
        return not self.last or self.last[row] not in self.vocabulary.stops

    def forbid(self, by: Acting, tokens: Tensor | Columns | Mapping[int, Ids]) -> None:
        """No row goes on with one of ``tokens``, int64 [n]; or none with those of its own, row -> ids.

        ``Columns`` are made once, of tokens that are forbidden again and again.
        """
        if not len(tokens):
            return
        grid = self._grid
        if isinstance(tokens, Tensor):
            tokens = Columns(tokens)
        cells = grid.columns(tokens) if isinstance(tokens, Columns) else grid.cells(tokens)
        self._change(by, "forbidden", cells, -math.inf)
        self.closed.add(cells)

    def penalise(self, by: Acting, tokens: Ids, amounts: Sequence[float] | Tensor, row: int) -> None:
        """A row goes on with ``tokens`` less gladly: ``amounts`` come off their scores."""
        cells = self._grid.cells({row: tokens})
        less = np.asarray(amounts.tolist() if isinstance(amounts, Tensor) else amounts, dtype=np.float32)
        self._change(by, "penalised", cells, self._grid.at(cells) - less)

    def force(self, by: Acting, token: int, row: int) -> None:
        """A row goes on with this token and no other."""
        cells = self._grid.cells({row: [token]})
        before = self._grid.at(cells)
        self.scores[row] = -math.inf
        self._change(by, "forced", cells, np.where(np.isfinite(before), before, np.float32(0.0)))
        self.closed.force(row, token)

    def keep(self, tokens: Tensor, row: int) -> None:
        """A row goes on with one of ``tokens``, int64 [n]. The others were not looked at, and no receipt names them."""
        kept = self.scores[row, tokens]
        self.scores[row] = -math.inf
        self.scores[row, tokens] = kept
        self.changed = True
        self.closed.keep(row, set(tokens.tolist()))

    def regret(self, by: Acting, row: int, first: int) -> None:
        """What a row says from its token ``first`` on leads nowhere: it is taken back and begins with another token.

        Nothing happens where text cannot be taken back: forbid what must not be said all the same.
        """
        if self.revocable:
            self.regrets.setdefault(row, (by, first))

    def near(self, row: int, reach: float = REACH, most: int = 32) -> tuple[np.ndarray, np.ndarray]:
        """What a row would likely say: tokens less than ``reach`` nats below its likeliest one, that one first and
        ``most`` at most, int64; and their shares of the probability."""
        return self._grid.near(row, reach, most)

    def _change(self, by: Acting, kind: str, cells: Cells, scores: np.ndarray | float) -> None:
        if len(cells):
            self._changes.append((by, kind, cells, self._grid.swap(cells, scores)))
            self.changed = True

    def stuck(self) -> list[int]:
        """Rows that the guards leave no token for."""
        if not self.changed:
            return []
        grid, rows = self._grid, len(self.prompt_of)
        for token in self.vocabulary.samples:
            if -math.inf not in grid.said([token] * rows):  # every row may say it
                return []
        return [row for row, best in enumerate(grid.best()) if best == -math.inf]

    def tell(self, said: list[int] | None, listed: bool = True) -> list[int]:
        """Put into the receipt which of the tokens that guards changed were in reach of what was said instead.

        Gives the rows that say what guards had closed.

        said: the next token of every row; None where that is not known, for the likeliest one
        listed: without, nothing is put into the receipt
        """
        if not self.changed:
            return []
        grid = self._grid
        left = grid.best() if said is None else grid.said(said)
        bad = [] if said is None or -math.inf not in left else [
            row for row, token in enumerate(said)
            if left[row] == -math.inf and token not in self.vocabulary.stops
            and self.live(row) and self.closed(row, token)
        ]  # fmt: skip
        if self._changes and listed:
            self._list(left)
        return bad

    def _list(self, left: list[float]) -> None:
        grid = self._grid
        lowest = min(left) - REACH
        for by, kind, cells, before in self._changes:
            if kind == "forced" or grid.top(before) > lowest:
                self._touch(by, kind, array(cells), grid.numbers(before), left)
        self._changes = []

    def _touch(self, by: Acting, kind: str, cells: np.ndarray, before: np.ndarray, left: list[float]) -> None:
        """The likeliest ones of every row that are in reach of what was said, and of each other."""
        rows, tokens = np.divmod(cells, self.scores.shape[1])
        if kind != "forced":
            near = np.flatnonzero(before > np.array(left, dtype=np.float32)[rows] - REACH)
            rows, tokens, before = rows[near], tokens[near], before[near]
        begins = np.flatnonzero(np.diff(rows, prepend=-1)).tolist()  # the cells of a row stand together
        for begin, end in zip(begins, (*begins[1:], len(rows))):
            row = int(rows[begin])
            if self.live(row):
                said = [self.vocabulary.word(token) for token in tokens[begin + _likeliest(before[begin:end])].tolist()]
                by.act.touched.append(Touch(row, self.ids.shape[1] - self.begin, said, kind))


def _likeliest(scores: np.ndarray) -> np.ndarray:
    """Where the LISTED highest are that are in reach of the highest, that one first."""
    some = np.argpartition(scores, -LISTED)[-LISTED:] if len(scores) > LISTED else np.arange(len(scores))
    some = some[np.argsort(-scores[some])]
    return some[scores[some] >= scores[some[0]] - REACH]  # type: ignore[no-any-return]


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
    rejected: list[tuple[Acting, str, float, int]] = field(default_factory=list)

    def reject(self, by: Acting, label: str, score: float, budget: int) -> None:
        """Say it another way. After ``budget`` sentences taken back, a row ends before the one that was next."""
        self.rejected.append((by, label, score, budget))
