"""What is being said to the requests of an engine, each under policies of its own, at whatever length it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...errors import GuardError, SessionError
from ...policy import Policy
from ...policy_file import load_policy
from ...records.listeners import Ended, listening, tell
from ...sessions.language import LanguageSession
from .host import VllmHost
from .policies import Policies

_log = logging.getLogger("conceptguard")
_HALF = (
    "guard '%s' of policy '%s' may leave half of a word that it forbids: vLLM neither takes words back nor can be "
    "asked which ones it is about to say"
)
ROOM = 256  # tokens by which a text's place grows


class Saying:
    """One request's text, and how far its sessions were asked about it.

    begin: how many of its tokens are prompt
    """

    def __init__(self, sessions: Sequence[LanguageSession], begin: int = 0):
        self.sessions, self.begin, self.began = sessions, begin, time.time_ns()
        self._ids = np.zeros(ROOM, dtype=np.int64)
        self._length = self._asked = 0
        for session in sessions:
            session.lists = listening()
            session.anew()

    def __len__(self) -> int:
        return self._length

    def read(self, ids: Sequence[int]) -> None:
        """Its tokens so far, all of them."""
        self._length = 0
        self.add(ids)

    def add(self, ids: Sequence[int]) -> None:
        """More of them. Raises GuardError for tokens that are not known yet."""
        if min(ids, default=0) < 0:
            raise GuardError("vLLM has not told yet what it said last: start it without async scheduling")
        end = self._length + len(ids)
        if end > len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros(end + ROOM - len(self._ids), dtype=np.int64)])
        self._ids[self._length : end] = ids
        self._length = end

    def settle(self, scores: Tensor) -> None:
        """The scores of the next token, [1, vocabulary], as the guards leave them.

        They are asked about every token of the answer in turn: those that were said elsewhere, as before a request was
        put off, they read now.
        """
        if self._length <= self._asked:  # a prompt that came in parts, or one that begins again
            self._asked = 0
            for session in self.sessions:
                session.anew()
        for length in range(max(self.begin, self._asked + 1), self._length):
            self._ask(length, torch.zeros_like(scores))
        self._ask(self._length, scores)
        self._asked = self._length

    def _ask(self, length: int, scores: Tensor) -> None:
        ids = torch.from_numpy(self._ids[None, :length])
        for session in self.sessions:
            session.process(ids, scores)


class Requests:
    """Sessions of a server's policies: one for each text that is being said under it, and then for another one's."""

    def __init__(self, host: VllmHost, policies: Policies):
        self._host, self._policies = host, policies
        self._policy = {source: load_policy(source) for source in dict.fromkeys(
            [*([policies.enforced] if policies.enforced else []), *map(str, policies.offered.values())]
        )}  # fmt: skip
        self._free: dict[str, list[LanguageSession]] = {source: [] for source in self._policy}
        self._sources: dict[Saying, tuple[str, ...]] = {}
        self._unread = torch.tensor(
            [*host.vocabulary.unknown, *range(len(host.vocabulary.pieces), host.vocabulary_size)],
            dtype=torch.long, device=host.target.device,
        )  # fmt: skip
        self._try()

    def _try(self) -> None:
        """Every policy is asked about one token: what cannot act here is an error now, and not in a request."""
        token = min(self._host.ends)
        for source, policy in self._policy.items():
            saying = self._begin((source,))
            saying.begin = 1
            saying.read([token])
            saying.settle(torch.zeros(1, self._host.vocabulary_size, device=self._host.target.device))
            for method in saying.sessions[0].methods:
                if method.regrets:
                    _log.warning(_HALF, method.guard.label, policy.name)
            self._put_back(saying)

    def begin(self, named: object) -> Saying:
        """A request that asks for a policy, or for none. Raises PolicyError for one that there is not."""
        return self._begin(self._policies.of(named))

    def _begin(self, sources: tuple[str, ...]) -> Saying:
        saying = Saying([self._session(source) for source in sources])
        self._sources[saying] = sources
        return saying

    def _session(self, source: str) -> LanguageSession:
        free = self._free[source]
        return free.pop() if free else self._another(self._policy[source])

    def _another(self, policy: Policy) -> LanguageSession:
        session = LanguageSession(self._host, policy, whole=True)
        if session.has("check_sentence"):
            named = next(m.guard.label for m in session.methods if hasattr(type(m), "check_sentence"))
            raise SessionError(
                f"guard '{named}' of policy '{policy.name}' takes sentences back, and vLLM has given them away by "
                "then: promise 3, that nothing unguarded leaves, cannot be kept on vllm; take it out, or serve by "
                "transformers"
            )
        return session

    def close(self, rows: Tensor) -> None:
        """Tokens that the tokenizer does not have: nobody could read them. rows: scores, [rows, vocabulary]."""
        if len(self._unread):
            rows[:, self._unread] = -torch.inf

    def end(self, saying: Saying) -> None:
        """No more of it will be said; listeners hear of its receipts."""
        for session in saying.sessions:
            tell(Ended(session.receipt, "text", self._host.target.name, saying.began, time.time_ns(), None))
        self._put_back(saying)

    def _put_back(self, saying: Saying) -> None:
        for source, session in zip(self._sources.pop(saying), saying.sessions):
            self._free[source].append(session)
