"""Taking text back: a sentence that a guard rejects is cut off, or a word that it regrets, and its row goes on from
there another way.

How a row goes on is the host's: it stops there, and says the row again from the sentence's or word's first token on,
which it may not begin with any more. The other rows are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from ..receipt import TakenBack
from ..text.sentences import sentences, token_at

if TYPE_CHECKING:
    from torch import Tensor

    from ..generation.decoding import Sentence
    from ..host import TextHost
    from ..protocols import SpeakingSession

WORDS = 8  # words of one text that are taken back; then the row goes on as it may
Regret = tuple[Any, int]
"""Who regrets a word, and the number of its first token in the row's text."""


class Again(NamedTuple):
    """How a row is to go on: after ``kept``, by ``room`` tokens at most (None: as the host has it), not with one of
    ``ban``, which ``by`` forbids. revocable: whether it may regret words again."""

    kept: list[int]
    room: int | None
    ban: set[int]
    by: Any
    revocable: bool


class Streamer(Protocol):
    """As transformers' own: what is said is put, the prompt first, and ended."""

    def put(self, value: Tensor) -> None: ...

    def end(self) -> None: ...


class TakingBack:
    """Of one generation. Rows are lists of ids, without the prompt.

    held: the streamer, where there is one
    """

    def __init__(self, session: SpeakingSession, host: TextHost, held: Held | None = None):
        self._session, self._host, self.held = session, host, held
        self.reads = session.has("check_sentence")
        self._passed: set[tuple[int, str, str]] = set()

    def checked(
        self, row: int, ids: list[int], regret: Regret | None, most: int | None,
        again: Callable[[Again], tuple[list[int], Regret | None]],
    ) -> list[int]:  # fmt: skip
        """A row without rejected sentences and regretted words.

        most: how many tokens it may have; again: gives the row as it goes on, what was kept included, and the word
        that it regrets then
        """
        taken = words = 0
        banned: dict[tuple[int, ...], set[int]] = {}
        while True:
            bad = self.first_bad(row, ids, ended=regret is None) if self.reads else None
            if bad is None and regret is not None and self.held is not None and regret[1] < self.held.given:
                # A phrase of several words began before what was heard: it is not said, and half of it stays.
                regret[0].act.notes.append(f"row {row} keeps words that had been heard before they were regretted")
                room = None if most is None else most - len(ids)
                if (room is not None and room < 1) or ids[-1] in self._host.ends:
                    return ids
                ids, regret = again(Again(ids, room, set(), regret[0], False))
                continue
            if bad is not None:
                by, label, score, budget = bad.rejected[0]
                first, taken = bad.first, taken + 1
                by.act.taken_back.append(TakenBack(row, first, label, score))
            elif regret is not None:
                (by, first), words = regret, words + 1
                by.act.taken_back.append(TakenBack(row, first))
            else:
                return ids
            kept = ids[:first]
            room = None if most is None else most - len(kept)
            if bad is not None and (taken > budget or (room is not None and room < 1)):
                by.act.notes.append(f"row {row} ends before a sentence that was rejected, after {taken} taken back")
                return [*kept, *sorted(self._host.ends)[:1]]
            ban = banned.setdefault(tuple(kept), set())
            ban.add(ids[first])
            if self.held is not None:
                self.held.cut(len(kept))
            ids, regret = again(Again(kept, room, ban, by, words < WORDS))

    def first_bad(self, row: int, ids: list[int], ended: bool) -> Sentence | None:
        """The first sentence of a row that is rejected; tokens before it may leave."""
        session, decode = self._session, self._host.vocabulary.decode
        stops = self._host.ends
        end = next((at for at, token in enumerate(ids) if token in stops), len(ids))
        ids, ended = ids[:end], ended or end < len(ids)
        text = decode(ids)
        row, safe = session.row(row), 0
        for place, said in sentences(text, ended):
            key = session.prompt_of(row), text[:place], said
            if key not in self._passed:
                sentence = session.sentence(said, text[:place], row)
                if sentence.rejected:
                    sentence.first = token_at(decode, ids, place)
                    return sentence
                self._passed.add(key)
            safe = place + len(said)
        if self.held is not None:
            self.held.safe = len(ids) if ended else token_at(decode, ids, safe)
        return None

    def stops(self, row: int, ids: list[int], regrets: bool) -> bool:
        """Whether a row ends here for now, after its last token: what it would say next is for nothing.

        row: of this run; regrets: whether it regrets a word
        """
        if regrets:
            return True
        piece = self._piece(ids[-1] if ids else -1)
        if self.reads:
            worth = piece is not None and (not piece.isascii() or piece[:1].isspace() or piece[-1:].isspace())
            return worth and self.first_bad(row, ids, ended=False) is not None
        if self.held is not None and ids and (piece or b" ")[:1].isspace():  # a word begins: the one before may leave
            self.held.safe = len(ids) - 1
        return False

    def _piece(self, token: int) -> bytes | None:
        pieces = self._host.vocabulary.pieces
        return pieces[token] if 0 <= token < len(pieces) else b""


class Held:
    """A streamer that gets tokens when the sentence they are in has been read. One row, as transformers' streamers."""

    def __init__(self, streamer: Streamer):
        self._streamer = streamer
        self._tokens: list[int] = []
        self.given = self.safe = 0  # how many were heard, how many may be
        self._prompt = True  # the next put is what generation begins with
        self._told = False

    def begin(self) -> None:
        """Another run begins."""
        self._prompt = True

    def put(self, value: Tensor) -> None:
        """What is generated: the prompt, then tokens."""
        if self._prompt:
            if not self._told:
                self._streamer.put(value)
            self._prompt, self._told = False, True
            return
        self._tokens += value.flatten().tolist()
        self._give(self.safe)

    def cut(self, kept: int) -> None:
        """Forget tokens from a place on."""
        del self._tokens[kept:]

    def end(self, row: list[int] | None = None) -> None:
        """The row as it is at last; every run is ended, without one."""
        if row is not None:
            self._tokens = row
            self._give(len(row))
            self._streamer.end()

    def _give(self, upto: int) -> None:
        for token in self._tokens[self.given : upto]:
            self._streamer.put(torch.tensor([token]))
        self.given = max(self.given, min(upto, len(self._tokens)))
