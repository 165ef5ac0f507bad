"""A session for text: one policy at every token that a language model says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import GuardError, Refused, SessionError
from ..generation.decoding import Decoding, Sentence
from ..hookspecs import TEXT
from ..policy import Policy
from ..receipt import Receipt, Row
from ..text.lineage import Lineage
from .base import BaseSession

if TYPE_CHECKING:
    from ..generation.decoding import Asked
    from ..host import TextHost


class LanguageSession(BaseSession):
    """The guards of one policy at work on one language model. Made by ``attach`` or ``logits_processor``.

    ``methods`` are the guards in the order of the policy.

    whole: whether the model's ``generate`` goes through the session, so that text can be taken back; else the session
    is a logits processor only
    """

    host: TextHost
    calls = TEXT

    def __init__(self, host: TextHost, policy: Policy, whole: bool):
        super().__init__(host, policy)
        self._asked: Asked | None = None
        self._untold: Decoding | None = None
        self._begin, self._of, self._prompts = 0, [0], torch.zeros(0, 0, dtype=torch.long)
        self._row: int | None = None  # the one that is generated again, by itself
        self._ban: tuple[int, list[int], Any] | None = None
        self._whole = whole
        self.revocable = False  # whether what a row says now can be taken back
        self.regrets: dict[int, tuple[Any, int]] = {}  # rows of this run that are to be, and from which token on
        self._receipt = self._fresh()
        if not whole and self.has("check_sentence"):
            named = next(m.guard.label for m in self.methods if hasattr(type(m), "check_sentence"))
            raise SessionError(
                f"guard '{named}' takes sentences back, which no logits processor can: use "
                "conceptguard.attach((model, tokenizer), policy) and the model's own generate()"
            )
        self.host.listen()
        if whole:
            self.host.attach(self)
        self.attached = True

    @property
    def receipt(self) -> Receipt:
        """The record of the last generation."""
        if self._untold is not None:
            self._untold.tell(None)
            self._untold = None
        return self._receipt

    def _fresh(self) -> Receipt:
        device, dtype = self.host.device_dtype()
        receipt = Receipt(self.policy.name, self.host.name, str(device), str(dtype).removeprefix("torch."))
        receipt.acts = self.acts()
        self._lineage, self._asked, self._untold = Lineage(), None, None
        self._started = time.perf_counter()
        return receipt

    # One generation, in the order of its calls.

    def run(self, generate: Callable[[], Any]) -> Any:
        """One whole generation under this session: one at a time. What no guard has seen does not leave."""
        with self._lock:
            self._receipt = self._fresh()
            try:
                return generate()
            finally:
                self._receipt.seconds = time.perf_counter() - self._started

    @property
    def takes_back(self) -> bool:
        """Whether any guard may take back what was said."""
        return self.has("check_sentence") or any(method.regrets for method in self.methods)

    @property
    def steps(self) -> int:
        """How many tokens guards have been asked about in this generation."""
        return self._receipt.steps

    @property
    def begun(self) -> bool:
        """Whether guards have read the prompts of this generation."""
        return self._asked is not None

    @contextmanager
    def resumed(self, row: int, column: int, ban: set[int], by: Any) -> Iterator[None]:
        """One row goes on by itself from a column, where it may not say what is in ``ban``."""
        prompts, of = self._prompts, self._of
        self._prompts, self._of, self._row = prompts[row : row + 1], [of[row]], row
        self._ban = column, sorted(ban), by
        try:
            yield
        finally:
            self._prompts, self._of, self._row, self._ban = prompts, of, None, None

    @property
    def begin(self) -> int:
        """How many tokens of the rows are prompt."""
        return self._begin

    def row(self, row: int) -> int:
        """Which row of the generation a row of this run is."""
        return row if self._row is None else self._row

    def prompt_of(self, row: int) -> int:
        """Which prompt a row answers."""
        return self._of[0] if self._row is not None else self._of[row]

    def sentence(self, text: str, before: str, row: int) -> Sentence:
        """A finished sentence as every guard has read it."""
        assert self._asked is not None
        sentence = Sentence(text, before, row, self.prompt_of(row), 0, self._asked)
        self._call("check_sentence", sentence=sentence)
        return sentence

    def process(self, ids: Tensor, scores: Tensor) -> Tensor:
        """The scores of the next tokens, [rows, vocabulary], changed in place. ids: [rows, tokens].

        ``generate`` gives every call scores of its own. Where it also returns them raw (``output_logits``), those are
        the guarded ones: what was forbidden could be read off them.
        """
        with self._lock:
            if not self.attached:
                raise SessionError(f"policy '{self.policy.name}' is not attached any more: it was detached before")
            known = ids.numpy(force=True)
            came = self._lineage(known)
            if self._asked is None or (came is not None and not self._goes_on(ids)):
                self._start(ids)
                came = self._lineage(known)
            assert self._asked is not None
            last = known[:, -1].tolist() if known.shape[1] > self._begin else []
            self._readable(last)
            if self._untold is not None:
                self._untold.tell(last if came is None else None)
            decoding = Decoding(
                ids, last, scores.contiguous(), self._begin, self._asked, self._of, came, self.host.vocabulary,
                self._receipt.steps, self.revocable,
            )  # fmt: skip
            self._call("process_logits", decoding=decoding)
            if self._ban is not None and ids.shape[1] == self._ban[0]:
                decoding.forbid(self._ban[2], dict.fromkeys(range(len(ids)), self._ban[1]))
            for row, regret in decoding.regrets.items():
                self.regrets.setdefault(row, regret)
            for row in decoding.stuck():
                self._end(decoding, row)
            self._untold = decoding
            self._receipt.steps += 1
            self._receipt.seconds = time.perf_counter() - self._started
            return decoding.scores

    def _goes_on(self, ids: Tensor) -> bool:
        """Whether these rows are of the generation that is running: longer than its prompts, and begun with them."""
        prompts = self._prompts
        if self._row is not None and len(prompts) != len(ids):  # beams of the one row
            self._prompts, self._of = prompts[:1].expand(len(ids), -1), self._of[:1] * len(ids)
            prompts = self._prompts
        return (
            len(ids) == len(prompts)
            and (ids.shape[1] > prompts.shape[1] or self._row is not None)
            and bool(torch.equal(ids[:, : prompts.shape[1]], prompts))
        )

    def _start(self, ids: Tensor) -> None:
        """Prompts that were not there before. A whole session has its receipt from ``generate``."""
        if not self._whole or self._asked is not None:
            self._receipt = self._fresh()
        self._prompts, self._begin = ids.clone(), ids.shape[1]
        if self.host.encodes:
            asked, self._of = self.host.heard(len(ids))
        else:
            asked, self._of = self.host.asked(ids, None)
        if self.policy.unread == "refuse" and None in asked.texts:
            raise Refused(
                f"a prompt came as embeddings, whose text policy '{self.policy.name}' has not seen: pass token ids"
            )
        self._receipt.rows = [Row(text, None) for text in asked.texts]
        self._asked = asked
        self._call("read_prompt", asked=asked)

    def _readable(self, last: list[int]) -> None:
        """Raises GuardError for a token that the tokenizer does not have: nobody knows what it says."""
        vocabulary = self.host.vocabulary
        if last and (max(last) >= len(vocabulary.pieces) or not vocabulary.unknown.isdisjoint(last)):
            token = next(token for token in last if token >= len(vocabulary.pieces) or token in vocabulary.unknown)
            raise GuardError(
                f"the model said token {token}, which its tokenizer does not have, so that no guard can read it: "
                "give the tokenizer that belongs to the model"
            )

    def _end(self, decoding: Decoding, row: int) -> None:
        """A row for which the guards leave no token is over."""
        ends = sorted(i for i in self.host.ends if i < decoding.scores.shape[1])
        if not ends:
            raise GuardError(
                "the guards leave no token to go on with, and the model has none that ends a text: nothing was "
                "generated"
            )
        decoding.scores[row, ends[0]] = 0.0
