"""No walk through all objects while many are made that stay.

Python's collector looks through everything, all of torch and of the models' code included, whenever enough new objects
have outlived a few of its rounds. A policy of a thousand guards makes enough of them for several such walks, each of
which takes as long as a hundred guards do, and finds nothing.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_was_on = False


@contextmanager
def uncollected() -> Iterator[None]:
    """The collector rests from here to the end, of whichever thread leaves last; reference counts free as ever."""
    global _inside, _was_on
    with _lock:
        if not _inside:
            _was_on = gc.isenabled()
            gc.disable()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _was_on:
                gc.enable()
