"""What guards were asked about in one generation, and what became of it: proof that they saw every token that leaves.

A call about scores is not yet a token: drafts are rejected, beams end. It counts once a text has gone on from it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GuardError

if TYPE_CHECKING:
    from .decoding import Answer, Closed, Decoding

# What may not follow a text: what a call closed for a row; where that is forgotten, all but what did follow it.
After = tuple["Closed", int] | set[int]


class Account:
    """Of one generation. Texts are rows of ids, [rows, tokens] int64, prompts included.

    steps: how many calls became tokens; unheard: how many were about scores that nobody knows to be the model's
    proves: whether what was closed and said all the same is an error; tells: whether receipts name what was closed
    order: what each call closed, only with ``keep``; ``closed_after`` then knows it of every text. Beams need it: they
    end where nobody asks again
    """

    def __init__(self, keep: bool = False, proves: bool = True, tells: bool = True):
        self.steps, self.unheard = 0, 0
        self.order: list[Closed] = []
        self.last: np.ndarray | None = None  # the texts of the last call, and what it closed
        self._latest: Closed | None = None
        self._keep, self._proves, self._tells = keep, proves, tells
        self._open: list[tuple[Decoding, np.ndarray]] = []  # calls about the model's last answer
        # Of every text that was asked about. None while each call is about the texts of the one before and one more
        # token: the last one tells all then.
        self._after: dict[int, After] | None = {} if keep else None

    def ask(self, decoding: Decoding, texts: np.ndarray, answer: Answer, follows: bool) -> None:
        """Guards are asked what may come after ``texts``.

        follows: they are known to be those of the last call, each with one more token. Raises GuardError where that
        token had been closed.
        """
        if answer != "more":
            follows = follows or (self.last is not None and goes_on(texts, self.last, 1))
            if self._open:
                self.settle(texts, follows)
        if self._after is None and self.last is not None and (answer == "more" or not follows):
            self._after = self._chain(decoding.begin)
        self._open.append((decoding, texts))
        self.last, self._latest = texts, decoding.closed
        self.unheard += answer == "unheard"
        if self._keep:
            self.order.append(decoding.closed)
        if self._after is not None:
            self._after |= {_key(text): (decoding.closed, row) for row, text in enumerate(texts)}

    def settle(self, texts: np.ndarray, follows: bool = False) -> None:
        """The open calls become tokens of ``texts``, or nothing."""
        asked, self._open = self._open, []
        for decoding, before in asked:
            if follows or goes_on(texts, before):
                said = texts[:, before.shape[1]].tolist()
            elif len(asked) == 1 and texts.shape[1] == before.shape[1] + 1:  # beams have changed places
                said = None
            else:
                continue
            self.steps += 1
            if (bad := decoding.tell(said, self._tells)) and self._proves:
                raise _closed(bad[0], before.shape[1] - decoding.begin)

    def guess(self) -> None:
        """The same where nobody knows how the texts go on: drafts stand as long as they are the likeliest, and one
        more token is said: one too many where drafts alone come to the length that was asked for."""
        asked, self._open = self._open, []
        for (decoding, before), later in zip(asked, (*asked[1:], None)):
            said = None if later is None else later[1][:, before.shape[1]].tolist()
            if said is not None and decoding.scores.argmax(1).tolist() != said:
                said = None
            self.steps += 1
            decoding.tell(said, self._tells)
            if said is None:
                return

    def demand(self, texts: np.ndarray, begin: int, ends: Collection[int]) -> None:
        """Raises GuardError unless guards were asked about every token from column ``begin`` on, and left it open.

        ends: ids that end a text, and what fills it up then
        """
        if self.last is None:
            raise _unasked(0, 0)
        known = begin
        if self._after is None:
            more = texts.shape[1] - self.last.shape[1]
            if more <= 0 and len(texts) == len(self.last) and np.array_equal(self.last[:, : texts.shape[1]], texts):
                return
            if more == 1 and goes_on(texts, self.last):
                known = self.last.shape[1]
        after = self._after if self._after is not None else self._chain(begin, known)
        for row, text in enumerate(texts):
            for at in range(known, len(text)):
                if (token := int(text[at])) in ends and all(int(i) in ends for i in text[at:]):
                    break
                if (entry := after.get(_key(text[:at]))) is None:
                    raise _unasked(row, at - begin)
                if token not in ends and _shut(entry, token):
                    raise _closed(row, at - begin)

    def closed_after(self, text: np.ndarray) -> np.ndarray:
        """Which tokens guards closed after a text. Raises KeyError where they were not asked."""
        after = (self._after or {})[_key(text)]
        return after[0].tokens(after[1]) if isinstance(after, tuple) else np.zeros(0, dtype=np.int64)

    def _chain(self, begin: int, since: int | None = None) -> dict[int, After]:
        """What is known of the texts of calls that went on from each other, and are not forgotten."""
        assert self.last is not None and self._latest is not None
        found: dict[int, After] = {}
        for row, text in enumerate(self.last):
            for at in range(begin if since is None else since, len(text)):
                said = found.setdefault(_key(text[:at]), set())
                assert isinstance(said, set)
                said.add(int(text[at]))
            found[_key(text)] = self._latest, row
        return found


def goes_on(texts: np.ndarray, before: np.ndarray, more: int = 0) -> bool:
    """Whether each text begins with the one before and goes on; by ``more`` tokens, where that is given."""
    length = before.shape[1]
    longer = texts.shape[1] == length + more if more else texts.shape[1] > length
    return longer and len(texts) == len(before) and np.array_equal(texts[:, :length], before)


def _key(text: np.ndarray) -> int:
    return hash(text.tobytes())


def _shut(after: After, token: int) -> bool:
    return after[0](after[1], token) if isinstance(after, tuple) else token not in after


def _unasked(row: int, at: int) -> GuardError:
    return GuardError(
        f"the text was generated past the guards: nothing asked them about token {at} of row {row}; use generate() "
        "without custom_generate, or with a loop that asks its logits processors for every token"
    )


def _closed(row: int, at: int) -> GuardError:
    return GuardError(
        f"token {at} of row {row} was said though the guards had forbidden it: this way of decoding asks its logits "
        "processors and does not do what they say; use generate() without custom_generate"
    )
