"""Whoever wants to know of every generation that ended, in whichever session."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..receipt import Receipt


class Ended(NamedTuple):
    """One generation. began, ended: nanoseconds since 1970; error: what it raised, if it did

    kind: "image", which includes video, or "text"; model: its name where it has one
    """

    receipt: Receipt
    kind: str
    model: str
    began: int
    ended: int
    error: BaseException | None


Listener = Callable[[Ended], None]
_lock = threading.Lock()
_listeners: tuple[Listener, ...] = ()


def listen(listener: Listener) -> Callable[[], None]:
    """Call it at the end of every generation, in the thread that generated; gives a function that ends this.

    What it raises is logged: a picture is not lost because a collector is down.
    """
    global _listeners
    with _lock:
        _listeners += (listener,)

    def stop() -> None:
        global _listeners
        with _lock:
            _listeners = tuple(one for one in _listeners if one is not listener)

    return stop


def listening() -> bool:
    """Whether anybody is."""
    return bool(_listeners)


@contextmanager
def reported(host: Any, receipt: Callable[[], Receipt]) -> Iterator[None]:
    """A generation: afterwards, whatever it raises, listeners are told of its receipt."""
    if not _listeners:
        yield
        return
    began, error = time.time_ns(), None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        kind = "text" if host.generates == "text" else "image"
        tell(Ended(receipt(), kind, _name(host.target), began, time.time_ns(), error))


def tell(ended: Ended) -> None:
    """Listeners of one generation. What they raise is logged."""
    for listener in _listeners:
        try:
            listener(ended)
        except Exception:
            logging.getLogger("conceptguard").exception("a listener to receipts failed")


def _name(target: Any) -> str:
    """Of a model: its own, or that of its folder."""
    model = target[0] if isinstance(target, tuple) else target
    name = getattr(target, "name", None) or getattr(model, "name_or_path", None)
    return Path(name).name if isinstance(name, str) else ""
