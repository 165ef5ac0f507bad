"""Turns at a module that several sessions, and whoever else calls it, share.

Gates are set at layers, so two generations at once on one denoiser would be guarded by each other's. They take turns:
a generation has its turn from beginning to end, and a call that belongs to none has one for itself.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from ..errors import SessionError

LOST = 600.0  # seconds that one call of a denoiser may take; who waits longer is told so


class Turn:
    """A lock that its thread may take again, first come, first served. ``with turn:`` is a generation's; ``begin`` and
    ``end`` are a call's.

    A call may never come to its end: it raised in a compiled graph, or was interrupted. Its thread's next one then goes
    on with the turn, another thread takes it where the first one is gone, and SessionError is raised in one that has
    waited ``LOST`` seconds for a thread that is still there.
    """

    def __init__(self) -> None:
        self._free = threading.Condition(threading.Lock())
        self._owner: threading.Thread | None = None
        self._depth = 0  # of generations
        self._calls: set[int] = set()  # for whom a call of no generation has begun and not ended
        self._waiting: list[threading.Thread] = []
        _turns.add(self)

    @property
    def mine(self) -> bool:
        """Whether this thread has the turn."""
        return self._owner is threading.current_thread()

    def __enter__(self) -> Turn:
        me = threading.current_thread()
        with self._free:
            self._take(me)
            if not self._depth:
                self._calls.clear()  # of a call that never ended
            self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._free:
            self._depth -= 1
            self._give()

    def begin(self, by: object) -> None:
        """A call that belongs to no generation begins. by: who asks for the turn; several may for one call"""
        with self._free:
            self._take(threading.current_thread())
            self._calls.add(id(by))

    def end(self, by: object) -> None:
        """It ended for one that asked, whether it raised or not; nothing for one that did not."""
        if self._calls and self.mine:
            with self._free:
                self._calls.discard(id(by))
                self._give()

    def _take(self, me: threading.Thread) -> None:
        if self._owner is me:
            return
        self._waiting.append(me)
        waited = 0.0
        try:
            while not self._is_free() or self._waiting[0] is not me:
                if waited >= LOST and self._owner is not None:
                    raise SessionError(
                        f"thread '{self._owner.name}' called this guarded denoiser by itself and has not come back for "
                        f"{LOST:.0f} seconds: end that thread, or have it call the guarded pipeline"
                    )
                self._free.wait(1.0)
                waited = 0.0 if self._depth else waited + 1.0
        finally:
            self._waiting.remove(me)
            self._free.notify_all()
        self._owner = me

    def _is_free(self) -> bool:
        if self._owner is not None and not self._depth and not self._owner.is_alive():
            self._owner = None
            self._calls.clear()
        return self._owner is None

    def _give(self) -> None:
        if not self._depth and not self._calls:
            self._owner = None
            self._free.notify_all()

    def forked(self) -> None:
        """Of the parent's threads only the one that forked is here: another one's turn would never end."""
        self._free, self._waiting = threading.Condition(threading.Lock()), []
        if not self.mine:
            self._owner, self._depth = None, 0
            self._calls.clear()


_turns: weakref.WeakSet[Turn] = weakref.WeakSet()
_of: weakref.WeakKeyDictionary[Any, Turn] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def turn_of(shared: Any) -> Turn:
    """The one turn of an object, whoever asks. It is hashed by identity, and not kept alive."""
    with _lock:
        found = _of.get(shared)
        if found is None:
            found = _of[shared] = Turn()
        return found


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for turn in list(_turns):
        turn.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
