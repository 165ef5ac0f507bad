"""A bar on standard error for what takes longer than a person waits without asking."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONG_SECONDS = 60.0
_DONE_BEFORE = 0.05  # seconds a picture or an answer: what takes less came out of a cache


@contextmanager
def estimated(text: str, total: int, less: str) -> Iterator[Callable[[int], None]]:
    """``progress``, which also says how long all of it will take, once the first were made, where that is long.

    less: what makes it shorter. The line is for a log as well, where no bar is drawn.
    """
    began, told, left = time.perf_counter(), False, total
    with progress(text, total) as tick:

        def timed(n: int) -> None:
            nonlocal began, told, left
            now = time.perf_counter()
            each, began, left = (now - began) / max(n, 1), now, left - n
            if not told and each > _DONE_BEFORE:
                told = True
                if each * left > LONG_SECONDS:
                    line = f"{left:,} more {text} at {each:.1f} s each: {duration(each * left)}; shorter with {less}"
                    print(f"conceptguard: {line}", file=sys.stderr)
            tick(n)

        yield timed


def duration(seconds: float) -> str:
    """In words: "about 3 minutes", "about 2.5 hours"."""
    if seconds < 5400:
        return f"about {max(1, round(seconds / 60))} minutes"
    return f"about {seconds / 3600:.1f} hours"


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with how many more are done. Nothing is drawn where nobody watches (a pipe, a log)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=total)
        yield lambda n: bar.advance(task, n)
