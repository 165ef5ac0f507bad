"""A bar for a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(label: str, total: int, shown: bool) -> Iterator[Callable[[int, float], None]]:
    """A bar on standard error, advanced by the function that this gives: tick(step, loss)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(label, total=total)
        yield lambda step, loss: bar.update(task, completed=step + 1, description=f"{label}, loss {loss:.4f}")
