"""Which objects are under a session, from before anything of it is loaded: attaching is no race."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from ..errors import SessionError

_lock = threading.Lock()
_claimed: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


class Claim:
    """A mark on an object that one session at a time may have. Raises SessionError where there is one.

    about: the object, None for one that any number of sessions may share; policy: for the others' message
    """

    def __init__(self, about: Any, policy: str):
        self._about = None if about is None else weakref.ref(about)
        if about is None:
            return
        with _lock:
            if (other := _claimed.get(about)) is not None:
                kind = "model" if hasattr(about, "forward") else "pipeline"
                raise SessionError(f"this {kind} is already guarded by policy '{other}': detach that session first")
            _claimed[about] = policy

    def release(self) -> None:
        """The object may be another session's."""
        about = self._about and self._about()
        if about is not None:
            with _lock:
                _claimed.pop(about, None)
        self._about = None
