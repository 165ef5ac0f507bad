"""One guarded ``generate``: guards are asked about every token, and what they take back is said another way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...sessions.taking_back import Again, Held, Regret, TakingBack

if TYPE_CHECKING:
    from ...host import TextHost
    from ...protocols import SpeakingSession
    from .engine import Run
    from .model import OnnxModel

_SURE = 1e4  # a score that no other is in reach of


class Speech:
    """Of one session. Rows are lists of ids; the guards are shown them with padding, all of one length."""

    def __init__(self, session: SpeakingSession, host: TextHost, model: OnnxModel, options: dict[str, Any]):
        self._session, self._host, self._model, self._options = session, host, model, options
        self._taking = TakingBack(session, host)
        self._prompts: list[list[int]] = []
        self._width = self._room = 0
        self._single: Run | None = None  # of a generation of one row, which can go back

    def __call__(self, prompts: list[list[int]], room: int, streamer: Any) -> list[list[int]]:
        """What is said to each prompt, by ``room`` tokens at most."""
        session, taking = self._session, self._taking
        self._prompts, self._width, self._room = prompts, max(map(len, prompts)), room
        run = self._model.run(prompts, room, self._options)
        self._single = run if len(prompts) == 1 else None
        if streamer is not None:
            taking.held = Held(streamer)
            taking.held.put(torch.tensor(prompts))
        padded = [[self._model.pad] * (self._width - len(prompt)) + prompt for prompt in prompts]
        texts, regrets = self._leg(run, torch.tensor(padded), room, session.takes_back)
        rows = [self._ended(row) for row in texts[:, self._width :].tolist()]
        if session.takes_back:
            rows = [
                taking.checked(row, ids, regrets.get(row), room, partial(self._again, row, torch.tensor(padded[row])))
                for row, ids in enumerate(rows)
            ]
        if taking.held is not None:
            taking.held.end(rows[0])
        return rows

    def _leg(self, run: Run, texts: Tensor, room: int, revocable: bool) -> tuple[Tensor, dict[int, Regret]]:
        """Rows as they go on until all have ended, or stop for what is to be taken back; and what they regret."""
        session, taking = self._session, self._taking
        session.regrets, session.revocable = {}, revocable
        stopped: set[int] = set()
        try:
            while room and not run.done and len(stopped) < len(texts):
                scores = session.process(texts, run.scores())
                self._end(scores, stopped)
                run.settle(scores)
                said = torch.tensor(run.next())[:, None]
                texts, room = torch.cat([texts, said], 1), room - 1
                if taking.held is not None:
                    # What was said is proved before it may be heard.
                    session.prove(texts, {self._model.pad}, last=False)
                    taking.held.safe += not session.takes_back  # else it tells what may be heard
                    taking.held.put(said)
                stopped |= {row for row in range(len(texts)) if row not in stopped and self._stops(row, texts)}
            session.prove(texts, {self._model.pad})
            return texts, session.regrets
        finally:
            session.revocable = False

    def _stops(self, row: int, texts: Tensor) -> bool:
        """Whether a row ends here, for now or for good."""
        ids = texts[row, self._width :].tolist()
        if ids[-1] in self._host.vocabulary.stops:
            return True
        return self._session.takes_back and self._taking.stops(row, ids, row in self._session.regrets)

    def _end(self, scores: Tensor, stopped: set[int]) -> None:
        """Rows of a batch that have stopped say no more while others go on."""
        for row in stopped:
            scores[row] = -torch.inf
            scores[row, min(self._host.ends)] = _SURE

    def _ended(self, ids: list[int]) -> list[int]:
        """Without what fills it up."""
        end = next((at for at, token in enumerate(ids) if token in self._host.ends), len(ids))
        return ids[: end + 1]

    def _again(self, row: int, prompt: Tensor, how: Again) -> tuple[list[int], Regret | None]:
        """A row that goes on another way, and the word that it regrets."""
        text = torch.cat([prompt, torch.tensor(how.kept, dtype=torch.long)])[None]
        room = how.room if how.room is not None else self._room - len(how.kept)
        run = self._at(self._prompts[row], how.kept, room)
        with self._session.resumed(row, text.shape[1], how.ban, how.by):
            texts, regrets = self._leg(run, text, room, how.revocable)
        return self._ended(texts[0, self._width :].tolist()), regrets.get(0)

    def _at(self, prompt: Sequence[int], kept: Sequence[int], room: int) -> Run:
        """A generator of one row that has said ``kept``: the one there is, gone back, or another one."""
        said = [*prompt, *kept]
        if self._single is None:
            return self._model.run([said], room, self._options)
        self._single.back(said, len(said))
        return self._single
