"""A session for text: one policy at every token that a language model says."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import GuardError, Refused, SessionError
from ..generation.account import Account, goes_on
from ..generation.decoding import Decoding, Sentence
from ..hookspecs import TEXT
from ..policy import Policy
from ..receipt import Act, Receipt, Row
from ..records.listeners import reported
from ..text.lineage import Came, Lineage
from .base import BaseSession
from .generations import publish, published
from .inside import Inside
from .using import Others

if TYPE_CHECKING:
    from ..generation.decoding import Ahead, Answer, Asked
    from ..host import TextHost


class LanguageSession(BaseSession):
    """The guards of one policy at work on one language model. Made by ``attach`` or ``logits_processor``.

    ``methods`` are the guards in the order of the policy.

    whole: whether the model's ``generate`` goes through the session, so that text can be taken back; else the session
    is a logits processor only
    beside: the session that is attached to the model, where this one acts when it is chosen
    """

    host: TextHost
    calls = TEXT

    def __init__(self, host: TextHost, policy: Policy, whole: bool, beside: LanguageSession | None = None):
        super().__init__(host, policy)
        self._turn: Any = beside._turn if beside else threading.RLock()
        self._lock = self._turn
        self._added = beside is not None
        if whole and not beside:
            self._others = Others(self._turn, self._another)
        self._regretting = any(method.regrets for method in self.methods)
        self._whole, self._least = whole, len(host.vocabulary.pieces)
        self._calls = 0
        self._asked: Asked | None = None
        self._begin, self._of, self._prompts = 0, [0], torch.zeros(0, 0, dtype=torch.long)
        self._row: int | None = None  # the one that is generated again, by itself
        self._ban: tuple[int, list[int], Any] | None = None
        self._owner: int | None = None  # the thread that began the generation of a logits processor
        self._left: dict[int, np.ndarray] = {}  # what threads had said when another one began
        self._real = False
        self.revocable = False  # whether what a row says now can be taken back
        self.regrets: dict[int, tuple[Any, int]] = {}  # rows of this run that are to be, and from which token on
        self.lists = (
            True  # whether the receipt names the tokens that guards changed, which takes as long as changing them
        )
        self._receipt = self._fresh()
        if not whole and self.has("check_sentence"):
            named = next(m.guard.label for m in self.methods if hasattr(type(m), "check_sentence"))
            raise SessionError(
                f"guard '{named}' takes sentences back, which no logits processor can: use "
                "conceptguard.attach((model, tokenizer), policy) and the model's own generate()"
            )
        self._inside = self._reach_in(whole)
        if beside:
            self.host.add(self)
            self.attached = True
            return
        self.host.listen()
        if whole:
            self.host.attach(self)
        else:
            weakref.finalize(self, self.host.detach).atexit = False
        self.attached = True

    def _reach_in(self, whole: bool) -> Inside | None:
        """What guards do inside of the model; None where none does anything. Raises SessionError where nobody can."""
        if not self.has("hidden_states"):
            return None
        named = next(m.guard.label for m in self.methods if hasattr(type(m), "hidden_states"))
        if not whole or not self.host.entries():
            raise SessionError(
                f"guard '{named}' acts inside of the model, where "
                + ("no logits processor reaches" if not whole else f"nothing reaches on {self.host.name}")
                + ": use conceptguard.attach((model, tokenizer), policy) and the model's own generate()"
            )
        place = {id(method): i for i, method in enumerate(self.methods)}
        found = self._call("hidden_states", layers=self.host.layers())
        return Inside(self, self.host, sorted(found, key=lambda one: place[id(one.owner)]))

    @contextmanager
    def within(self, ids: Tensor | None, mask: Tensor | None, filled: bool) -> Iterator[None]:
        """One generation with what guards do inside of the model, from the prompts that it is asked.

        ids, mask: [rows, tokens], of the encoder where there is one; filled: whether a cache that came with them may
        hold more of a text, so that nobody has read it: whatever a prompt opens is then open
        """
        inside = self._inside
        if inside is None:
            yield
            return
        asked, of = self.host.asked(ids, mask)
        unread = [None] * len(asked.ids) if filled else asked.ids
        gates = inside.gates(unread, asked.texts if not filled else [None] * len(asked.texts))
        with inside.opened(gates, of, self.host.places(unread)):
            yield
        for guard, one in enumerate(inside.found):
            act: Act = one.owner.act  # type: ignore[attr-defined]
            act.gates = [round(gate, 4) for gate in gates[:, guard].tolist()]
            act.layers = inside.layers(guard)
            act.steps = [*range(inside.calls)] if gates[:, guard].any() else []

    def _leave_host(self) -> None:
        super()._leave_host()
        if self._inside is not None:
            self._inside.detach()

    def _another(self, policy: Policy) -> LanguageSession:
        self.demand_attached()
        return LanguageSession(self.host, policy, whole=True, beside=self)

    @property
    def receipt(self) -> Receipt:
        """The record of the last generation of this thread or task, or of the last one where it has had none.

        Raises GuardError where a logits processor was never asked: what was said beside it, nothing has guarded.
        """
        receipt = published(self) or self._receipt
        if receipt is self._receipt and self._turn.acquire(
            blocking=False
        ):  # a generation of another thread is told as far as it is
            try:
                self._account.guess()
                self._receipt.steps = self._account.steps
            finally:
                self._turn.release()
        if not self._whole and self._account.last is None:
            raise GuardError(
                f"the logits processor of policy '{self.policy.name}' was never asked, so that it has guarded nothing: "
                "pass it to generate(), in a way of decoding that asks its processors (not paged), or attach the policy"
            )
        return receipt

    def _fresh(self, keep: bool = False) -> Receipt:
        device, dtype = self.host.device_dtype()
        receipt = Receipt(self.policy.name, self.host.name, str(device), str(dtype).removeprefix("torch."))
        receipt.acts = self.acts()
        self._lineage, self._asked, self._account = Lineage(), None, Account(keep, self._whole, self.lists)
        self._before: Tensor | None = None  # what the model had been given before the ids that a processor is shown
        self._surely, self._keep = False, keep  # whether that is known
        self._calls += 1  # so that no guard takes the next call for one that goes on
        self._started = time.perf_counter()
        return receipt

    # One generation, in the order of its calls.

    def run(self, generate: Callable[[], Any], keep: bool = False) -> Any:
        """One whole generation under this session: one at a time. What no guard has seen does not leave.

        keep: remember what was closed at every token, for ``closed``
        """
        with self._lock:
            if not self.attached:
                raise self._gone()
            self._receipt = self._fresh(keep)
            publish(self, self._receipt)
            with reported(self.host, lambda: self._receipt):
                try:
                    return generate()
                finally:
                    self._receipt.steps = self._account.steps
                    self._receipt.seconds = time.perf_counter() - self._started
                    publish(self, self._receipt)

    def anew(self) -> None:
        """Another text begins, whatever was said before; for a host that is asked token by token, with no call around
        them all. What the last one came to, its receipt goes on to say."""
        with self._lock:
            self._receipt = self._fresh()

    def _gone(self) -> SessionError:
        return SessionError(f"policy '{self.policy.name}' is not attached any more: it was detached before")

    def prove(self, texts: Tensor, fill: Collection[int], last: bool = True) -> None:
        """Raises GuardError unless every guard was asked about each token of these rows, and left it open.

        fill: ids that texts may be filled up with; last: whether these are the texts that leave in the end
        """
        told = self.whole(texts)
        self._account.demand(told, self._begin, self.host.vocabulary.stops.union(fill))
        if last:
            self._account.settle(told)

    def whole(self, texts: Tensor) -> np.ndarray:
        """Texts as ``generate`` has them, with what the model had been given before: [rows, tokens]."""
        return (texts if self._before is None else torch.cat([self._before[: len(texts)], texts], 1)).numpy(force=True)

    @property
    def account(self) -> Account:
        """What guards were asked about in this generation."""
        return self._account

    @property
    def takes_back(self) -> bool:
        """Whether any guard may take back what was said."""
        return self.has("check_sentence") or self._regretting

    def takes_nothing_back(self, beside: Sequence[str]) -> None:
        """Say in the receipt of guards that would take words back that they do not, beside these options."""
        for method in self.methods:
            if method.regrets:
                method.act.notes.append(f"takes no words back beside {', '.join(beside)}")

    @contextmanager
    def resumed(self, row: int, column: int, ban: set[int], by: Any) -> Iterator[None]:
        """One row goes on by itself from a column, where it may not say what is in ``ban``."""
        prompts, of = self._prompts, self._of
        self._prompts, self._of, self._row = prompts[row : row + 1], [of[row]], row
        self._ban = column, sorted(ban), by
        alone = self._inside.alone(of[row]) if self._inside is not None else nullcontext()
        try:
            with alone:
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

        ``generate`` gives every call scores of its own. Where it also returns them raw (``output_logits``), these are
        the guarded ones in plain greedy search only, and everywhere under an attached policy: see ``with_guards``.
        """
        with self._lock:
            if not self.attached:
                raise self._gone()
            answer = self.host.answer(ids)
            if answer in ("none", "unheard") and not self._least <= scores.shape[1] <= self.host.vocabulary_size:
                return self._foreign(scores)
            shown, real = ids, answer != "none"
            if self._before is not None and len(self._before) == len(ids):
                ids = torch.cat([self._before, ids], 1)
            known = ids.numpy(force=True)
            came = self._lineage(known)
            begun = not self._whole and self.host.begins()
            another = self._asked is None or self._another_text(ids, came, begun)
            if another or (came is not None and not self._goes_on(ids)) or (real and self._misread(shown)):
                self._take_turns(known)
                ids = self._start(shown, real)
                known = ids.numpy(force=True)
                came = self._lineage(known)
            assert self._asked is not None
            last = known[:, -1].tolist() if known.shape[1] > self._begin else []
            if real:
                self._readable(last)
            self._calls += 1
            _, taken, by = self._ban if self._ban is not None and ids.shape[1] == self._ban[0] else (0, [], None)
            decoding = Decoding(
                ids, last, scores.contiguous(), self._begin, self._asked, self._of, came, self.host.vocabulary,
                self._calls, self.revocable and real, self._ahead(ids, answer), taken,
            )  # fmt: skip
            if real:
                self._account.ask(decoding, known, answer, came is None and self._real)
            self._real = real
            if by is not None:  # first, so that guards choose among what is left
                decoding.forbid(by, dict.fromkeys(range(len(ids)), taken))
            self._call("process_logits", decoding=decoding)
            for row in decoding.stuck():
                self._end(decoding, row)
            if real:
                for row, regret in decoding.regrets.items():
                    self.regrets.setdefault(row, regret)
                self.host.remember(ids if came is None or len(ids) == 1 else None)
                self._receipt.steps = self._account.steps
                self._receipt.seconds = time.perf_counter() - self._started
            return decoding.scores

    def _ahead(self, ids: Tensor, answer: Answer) -> Ahead | None:
        """Asks the model about what comes next, for guards that take words back, or find others in their place."""
        if not self._regretting or answer not in ("new", "more"):
            return None
        assert self._asked is not None
        return self.host.ahead(ids, self._begin, self._asked, self._of)

    def _another_text(self, ids: Tensor, came: Came, begun: bool) -> bool:
        """Whether a logits processor, which no ``generate`` tells where it begins, is in another generation: the model
        read its text from the first token on, or rows have tokens that nobody was asked about. A longer prompt, as of
        a chat's next turn, often begins as the last text did, and is to be read all the same."""
        if self._whole or self._account.last is None:
            return False
        return begun or any(shared < ids.shape[1] - 1 for _, shared in came or ())

    def _goes_on(self, ids: Tensor) -> bool:
        """Whether these rows are of the generation that is running: longer than its prompts, and begun with them."""
        prompts = self._prompts
        if self._row is not None and len(prompts) != len(ids):  # beams of the one row
            self._prompts, self._of = prompts[:1].expand(len(ids), -1), self._of[:1] * len(ids)
            prompts = self._prompts
        longer = ids.shape[1] > prompts.shape[1] or self._row is not None or self._account.last is None
        return longer and len(ids) == len(prompts) and bool(torch.equal(ids[:, : prompts.shape[1]], prompts))

    def _misread(self, ids: Tensor) -> bool:
        """Whether guards have begun with drafts, and the model was given more than these."""
        if not self._surely:
            before = self.host.before(ids)
            self._surely = before is not None and not before.shape[1]
            return not self._surely
        return False

    def _take_turns(self, texts: np.ndarray) -> None:
        """Raises GuardError where generations of two threads ask one logits processor in turn."""
        thread, last = threading.get_ident(), self._account.last
        if self._owner not in (None, thread) and last is not None:
            self._left[self._owner] = last
        self._owner = thread
        before = self._left.pop(thread, None)
        if before is not None and not self._whole and goes_on(texts, before, 1):
            raise GuardError(
                f"the logits processor of policy '{self.policy.name}' is in two generations at once: make one for "
                "each, or attach the policy, whose generations take turns"
            )

    def _start(self, ids: Tensor, real: bool) -> Tensor:
        """Prompts that were not there before; gives all of their ids. A whole session has its receipt from
        ``generate``."""
        if not self._whole or self._asked is not None:
            self._receipt = self._fresh(self._keep)
        publish(self, self._receipt)
        before = self.host.before(ids) if real else ids[:, :0]
        self._surely = real
        if before is not None and before.shape[1]:
            self._before, ids = before, torch.cat([before, ids], 1)
        self._prompts, self._begin = ids.clone(), ids.shape[1]
        if before is None:
            asked, self._of = self.host.asked(ids[:, :0], None)
        elif self.host.encodes:
            asked, self._of = self.host.heard(len(ids))
        else:
            asked, self._of = self.host.asked(ids, None)
        if self.policy.unread == "refuse" and None in asked.texts:
            raise Refused(
                "a prompt came as embeddings, or in a cache that was filled elsewhere, whose text policy "
                f"'{self.policy.name}' has not seen: pass all of its token ids"
            )
        self._receipt.rows = [Row(text, None) for text in asked.texts]
        self._asked = asked
        self._call("read_prompt", asked=asked)
        return ids

    def _foreign(self, scores: Tensor) -> Tensor:
        """Scores over another vocabulary: drafts of an assistant that has a tokenizer of its own."""
        if self._whole:
            return scores  # what becomes of them is proved
        raise GuardError(
            f"this logits processor was asked about {scores.shape[1]} scores, and its model gives "
            f"{self.host.vocabulary_size}: generate() asks it about the drafts of an assistant with another tokenizer; "
            "attach the policy, or take an assistant with the model's tokenizer"
        )

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
        decoding.closed.force(row, ends[0])
