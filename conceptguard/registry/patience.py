"""A bar on standard error, for whoever watches, once something has taken longer than a person waits without asking."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Thing = TypeVar("Thing")

PATIENCE_SECONDS = 2.0


def patiently(things: Iterable[Thing], total: int, what: str) -> Iterator[Thing]:
    """The things as they come; `total` says how many, `what` is done to them."""
    begin = time.monotonic()
    bar = task = None
    try:
        for number, thing in enumerate(things):
            if bar is None and time.monotonic() - begin > PATIENCE_SECONDS:
                # Imported here: most of what is read is read at once.
                from rich.console import Console
                from rich.progress import Progress

                bar = Progress(console=Console(stderr=True), transient=True, auto_refresh=False)
                bar.start()
                task = bar.add_task(what, total=total)
            if bar is not None and task is not None:
                bar.update(task, completed=number, refresh=True)
            yield thing
    finally:
        if bar is not None:
            bar.stop()
