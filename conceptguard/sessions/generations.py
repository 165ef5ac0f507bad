"""What a session knows of one generation, kept apart from what it knows of another.

A generation may begin inside of another one, from a callback; a caller's own loop may be interrupted by a generation,
or by somebody else's loop. Each goes on with what it knew, and has a receipt of its own.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from copy import copy
from typing import Any

from ..receipt import Receipt
from ..runtime.choice import choice

State = list[tuple[Any, dict[str, Any]]]
_latest: ContextVar[weakref.WeakKeyDictionary[Any, Receipt] | None] = ContextVar("latest", default=None)


def publish(session: Any, receipt: Receipt) -> None:
    """This thread's, or task's, last generation under a session is the receipt's."""
    chosen = choice(session.host)
    if chosen is not None and chosen.session is session:
        chosen.receipt = receipt
    known = _latest.get()
    if known is None or known.get(session) is not receipt:
        # A new one each time: tasks and threads begin with a copy of the context, which is no copy of what is in it.
        known = weakref.WeakKeyDictionary({} if known is None else known)
        known[session] = receipt
        _latest.set(known)


def published(session: Any) -> Receipt | None:
    """What ``publish`` was told last in this thread or task."""
    known = _latest.get()
    return None if known is None else known.get(session)


def state_of(session: Any, names: Sequence[str], methods: Sequence[Any]) -> State:
    """What is to be set aside: some attributes of a session, and all of its guards'."""
    kept: State = [(session, {name: getattr(session, name) for name in names})]
    for method in methods:
        # What a guard remembers between its steps is in containers, which it goes on to fill.
        own = {k: copy(v) if isinstance(v, (dict, list, set)) else v for k, v in vars(method).items()}
        kept.append((method, own))
    return kept


def restore(state: State) -> None:
    """As it was when it was set aside."""
    for owner, attributes in state:
        owner.__dict__.update(attributes)


class Loops:
    """Callers' own loops, one a thread: calls of the denoiser that belong to no generation."""

    def __init__(self) -> None:
        self._now: weakref.ref[threading.Thread] | None = None
        self._aside: weakref.WeakKeyDictionary[threading.Thread, State] = weakref.WeakKeyDictionary()

    def leave(self, state: Callable[[], State]) -> None:
        """A generation begins: this thread's loop is over, another one's waits."""
        self._aside.pop(threading.current_thread(), None)
        now, self._now = self._now() if self._now else None, None
        if now is not None and now is not threading.current_thread():
            self._aside[now] = state()

    def enter(self, state: Callable[[], State], begin: Callable[[], None]) -> bool:
        """A call of this thread's loop. Gives whether another's was before it, or none. begin: a new loop"""
        here = threading.current_thread()
        now = self._now() if self._now else None
        if now is here:
            return False
        if now is not None:
            self._aside[now] = state()
        own = self._aside.pop(here, None)
        if own is None:
            begin()
        else:
            restore(own)
        self._now = weakref.ref(here)
        return True
