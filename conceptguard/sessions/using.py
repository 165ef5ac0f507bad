"""Other policies on the host of an attached session: each is loaded once, and from then on chosen call by call."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import SessionError
from ..policy import Policy
from ..policy_file import load_policy, policy_key
from ..receipt import Receipt
from ..runtime.choice import Choice, choosing

KEPT = 32  # policies whose guards stay loaded; those beyond it that were used last
Source = str | Path | Mapping[str, Any] | Policy


class Using:
    """What ``session.using(policy)`` gives: the policy, and the receipt of what was generated under it meanwhile."""

    def __init__(self, chosen: Choice):
        self._chosen = chosen

    @property
    def policy(self) -> Policy:
        """As it was loaded."""
        return self._chosen.session.policy  # type: ignore[no-any-return]

    @property
    def receipt(self) -> Receipt:
        """The record of the last generation inside of the ``with``, also one that a guard refused, and also of a thread
        that was started with a copy of its context (``asyncio.to_thread``, FastAPI's thread pool).

        Raises SessionError where there was none.
        """
        if self._chosen.receipt is None:
            raise SessionError(
                f"nothing was generated under policy '{self.policy.name}': call the model inside of `with using(...)`, "
                "in its thread"
            )
        return self._chosen.receipt  # type: ignore[no-any-return]

    def on_step_end(self, pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        """As the session's, where a caller has it in ``callback_on_step_end``."""
        return self._chosen.session.on_step_end(pipe, index, timestep, values)  # type: ignore[no-any-return]


class _Session(Protocol):
    policy: Policy

    def detach(self) -> None: ...


@dataclass
class _Kept:
    session: _Session
    users: int = 1


class Others:
    """The sessions of other policies beside an attached one, the last ``KEPT``.

    turn: held while one is made or dropped; make: makes one
    """

    def __init__(self, turn: Any, make: Callable[[Policy], _Session]):
        self._turn, self._make = turn, make
        self._lock = threading.Lock()  # held for a moment only: choosing what is known waits for no generation
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._over = ""

    @contextmanager
    def using(self, host: object, source: Source) -> Iterator[Using]:
        """See ``BaseSession.using``."""
        kept = self._take(source)
        try:
            with choosing(host, kept.session) as chosen:
                yield Using(chosen)
        finally:
            with self._lock:
                kept.users -= 1

    def _take(self, source: Source) -> _Kept:
        key = policy_key(source)
        found = self._known(key)
        if found is None:
            with self._turn:
                found = self._known(key)  # another thread may have been first
                if found is None:
                    found = _Kept(self._make(load_policy(source)))
                    with self._lock:
                        self._kept[key] = found
                    self._drop_oldest()
        return found

    def _known(self, key: Hashable) -> _Kept | None:
        with self._lock:
            if self._over:
                raise SessionError(self._over)
            found = self._kept.get(key)
            if found is not None:
                found.users += 1
                self._kept.move_to_end(key)
            return found

    def _drop_oldest(self) -> None:
        with self._lock:
            spare = max(len(self._kept) - KEPT, 0)
            gone = [key for key, kept in self._kept.items() if not kept.users][:spare]
            dropped = [self._kept.pop(key) for key in gone]
        for kept in dropped:
            kept.session.detach()

    def close(self, policy: str) -> None:
        """Let go of all, and refuse whoever comes later. Raises SessionError where one is in use.

        policy: that of the attached session
        """
        with self._lock:
            used = [kept.session.policy.name for kept in self._kept.values() if kept.users]
            if used:
                raise SessionError(
                    f"policy '{policy}' cannot be detached while others are in use in its place ({', '.join(used)}): "
                    "leave their `with using(...)` first"
                )
            self._over = f"policy '{policy}' is not attached any more: it was detached before"
            dropped, self._kept = list(self._kept.values()), OrderedDict()
        for kept in dropped:
            kept.session.detach()
