"""A bar for what takes a while: a training, or things one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Tick(Protocol):
    """Advances a bar. step: which is done, from 0; value: what it came to, where there is something to tell."""

    def __call__(self, step: int, value: float | None = None, /) -> None: ...


def unseen(step: int, value: float | None = None, /) -> None:
    """Of a bar that nobody watches."""


@contextmanager
def progress_bar(label: str, total: int, shown: bool, told: str = "loss") -> Iterator[Tick]:
    """A bar on standard error, advanced by the function that this gives. told: what its values are."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(label, total=total)

        def tick(step: int, value: float | None = None, /) -> None:
            words = label if value is None else f"{label}, {told} {value:.4f}"
            bar.update(task, completed=step + 1, description=words)

        yield tick
