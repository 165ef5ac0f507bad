"""What workers of a Ray cluster do in tests: it is imported there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conceptguard.cli import draw
from conceptguard.errors import ConceptGuardError

DIES_ONCE, DIES, FAILS = "dies once", "dies", "fails"


class Nothing:
    """What a worker works with, here: the folder where it leaves word."""

    device = "cpu"

    def __init__(self, folder: Path):
        self.folder = folder


class Opens:
    def __init__(self, folder: Path):
        self.folder = folder

    @contextmanager
    def __call__(self) -> Iterator[Nothing]:
        yield Nothing(self.folder)


def once(file: Path) -> bool:
    """Whether nobody asked before, of all processes."""
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def work(own: Nothing, piece: Any, tick: Any) -> tuple[Any, int]:
    """The piece and who did it; some pieces are the end of their worker."""
    if piece == DIES or (piece == DIES_ONCE and once(own.folder / "died")):
        os.kill(os.getpid(), signal.SIGKILL)
    if piece == FAILS:
        raise ConceptGuardError("this piece cannot be done")
    (own.folder / f"{piece}-{time.monotonic_ns()}").touch()
    time.sleep(0.2)
    return piece, os.getpid()


def dies_on_the_second(own: Any, job: Any, tick: Any) -> Any:
    """``draw_job``, but the first worker that is to draw prompt 2 is killed."""
    if job.policy and 2 in job.part and once(Path(os.environ["DIED"])):
        os.kill(os.getpid(), signal.SIGKILL)
    return draw.draw_job(own, job, tick)
