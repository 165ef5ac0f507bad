"""Work in small pieces, in this process or on workers of a Ray cluster: the same results, in the order they are ready.

A worker is an actor that holds a model of its own and takes the next piece when it is done with one. A piece whose
worker dies is done again once, by a new worker; a result counts once, as a piece is handed out again only where none
came.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from typing import Any, NamedTuple

from ..errors import ConceptGuardError
from ..version import __version__
from .options import Usage

PATIENCE = 5.0  # seconds after which a cluster that says nothing is asked whether it is there

Tick = Callable[[int], None]
Load = Callable[[], AbstractContextManager[Any]]
Do = Callable[[Any, Any, Tick], Any]


class On(NamedTuple):
    """Where work is done. where: None for this process, ``ray``, or ``ray://HOST:PORT``; workers: so many, by default
    all that there is room for; gpus: of each, a fraction where several share one, by default one where there are any.
    """

    where: str | None = None
    workers: int | None = None
    gpus: float | None = None

    def check(self) -> None:
        """Raises Usage for what belongs to a cluster without one."""
        if self.where is None and (self.workers or self.gpus is not None):
            raise Usage("--workers and --gpus are of a cluster: add --on ray")


class Pool(NamedTuple):
    """device: of the model that works.

    each: gives (number of a piece, its result) for a list of pieces, told what hears how much is done, and how much of
    that all of a piece is.
    """

    device: str
    each: Callable[[Sequence[Any], Tick, Callable[[Any], int]], Iterator[tuple[int, Any]]]


@contextmanager
def pool(on: On, load: Load, do: Do) -> Iterator[Pool]:
    """Workers, or this process as the only one.

    load: opens a model, or whatever a worker works with, which has a ``device``; do: one piece, given that, the piece
    and what hears how much of it is done. What is handed to workers is pickled.

    Raises Usage, ConceptGuardError for a cluster that is not there or goes away, and whatever ``do`` raises.
    """
    on.check()
    if on.where is None:
        with load() as own:
            yield Pool(
                str(own.device), lambda found, tick, size: ((i, do(own, it, tick)) for i, it in enumerate(found))
            )
        return
    # Ray tells of dead workers on standard output, which is for the command's own JSON.
    with redirect_stdout(sys.stderr), _cluster(on.where) as ray:
        crew = _Crew(ray, on, load, do)

        def each(pieces: Sequence[Any], tick: Tick, size: Callable[[Any], int]) -> Iterator[tuple[int, Any]]:
            for i, result in crew.each(pieces):
                tick(size(pieces[i]))
                yield i, result

        yield Pool(crew.device, each)


@contextmanager
def _cluster(where: str) -> Iterator[Any]:
    """Ray, connected. What it raises itself is told in one line: most often the cluster is no longer there."""
    if where != "ray" and not where.startswith("ray://"):
        raise Usage(f"--on {where}: write ray, for this machine or what RAY_ADDRESS names, or ray://HOST:PORT")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours tells nobody that it was started
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError:
        raise ConceptGuardError(f'--on {where} needs Ray: pip install "conceptguard[ray]"') from None
    address = os.environ.get("RAY_ADDRESS") if where == "ray" else where
    named = f"the Ray cluster {address or 'on this machine'}"
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        _demand(address)  # Ray alone tries for minutes
        ray.init(address, **quiet) if address else ray.init("local", include_dashboard=False, **quiet)
    except (RayError, OSError, ValueError, RuntimeError) as error:
        raise ConceptGuardError(
            f"{named} does not answer ({_short(error)}): see `ray status`; without an address --on ray starts its own"
        ) from None
    try:
        yield ray
    except (RayError, ConnectionError) as error:
        raise ConceptGuardError(
            f"{named} failed or went away ({_short(error)}): what was written so far is there; give the command again"
        ) from None
    finally:
        leaving = threading.Thread(target=ray.shutdown, daemon=True)
        leaving.start()
        leaving.join(PATIENCE)  # of a cluster that is gone it never ends


class _Crew:
    """Workers, and which of them does what."""

    def __init__(self, ray: Any, on: On, load: Load, do: Do):
        import torch

        # As many threads as here: with more or fewer, sums end in another last digit.
        threads = torch.get_num_threads()
        there = ray.cluster_resources()
        cpus, gpus = there.get("CPU", 0), there.get("GPU", 0)
        each = min(gpus, 1) if on.gpus is None else on.gpus
        room = int(min(cpus / threads, gpus / each if each else cpus))
        self._most = on.workers or room
        if not 0 < self._most <= room:
            raise Usage(
                f"--workers {self._most}: the cluster has {cpus:g} CPUs and {gpus:g} GPUs, and a worker takes "
                f"{threads} CPUs (OMP_NUM_THREADS=1 makes it one) and {each:g} GPUs (--gpus)"
            )
        print(f"conceptguard: up to {self._most} workers of {threads} CPUs and {each:g} GPUs", file=sys.stderr)
        self._ray, self._kind = ray, ray.remote(_Worker).options(num_cpus=threads, num_gpus=each)
        self._begin = ray.put((load, do, os.getcwd(), threads, _versions()))
        # Asked by hand: Ray's own questions wait for a minute, and then end this process without a word.
        self._head = None if ray.util.client.ray.is_connected() else ray.get_runtime_context().gcs_address
        self._idle: list[Any] = []
        self._awaited: dict[Any, tuple[Any, int | None]] = {}  # a worker and its piece, or None while it loads
        self._died_loading = 0
        self._hire()
        self.device: str = self._got(next(iter(self._awaited)))

    def each(self, pieces: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """(number, result), as workers are done. Raises ConceptGuardError for a piece of which two workers died."""
        waiting, lost = deque(range(len(pieces))), set()
        while waiting or any(i is not None for _, i in self._awaited.values()):
            while waiting and self._idle:
                self._give(self._idle.pop(), pieces, waiting.popleft())
            while len(self._awaited) < self._most and self._loading < len(waiting):
                self._hire()
            done = self._next()
            worker, i = self._awaited.pop(done)
            try:
                result = self._got(done)
            except _Died as died:
                self._ray.kill(worker)  # it may be cut off and alive
                if i is None:
                    self._died_loading += 1
                if self._died_loading > 1 or i in lost:
                    what = "loading its model" if i is None else f"piece {i + 1} of {len(pieces)}"
                    raise ConceptGuardError(
                        f"two workers died of {what} ({died}): out of memory? try fewer --workers, or a smaller --batch"
                    ) from None
                if i is not None:
                    lost.add(i)
                    waiting.appendleft(i)
                continue
            self._idle.append(worker)
            if i is not None:
                yield i, result

    @property
    def _loading(self) -> int:
        return sum(i is None for _, i in self._awaited.values())

    def _hire(self) -> None:
        worker = self._kind.remote()
        self._awaited[worker.begin.remote(self._begin)] = worker, None

    def _give(self, worker: Any, pieces: Sequence[Any], i: int) -> None:
        self._awaited[worker.work.remote(pieces[i])] = worker, i

    def _next(self) -> Any:
        while True:
            done, _ = self._ray.wait(list(self._awaited), timeout=PATIENCE)
            if done:
                return done[0]
            _demand(self._head)

    def _got(self, reference: Any) -> Any:
        """A result. Raises _Died where there will be none, and what the work raised."""
        from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

        try:
            return self._ray.get(reference)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except (RayActorError, ObjectLostError) as error:
            _demand(self._head)
            raise _Died(_short(error)) from None


class _Died(Exception):
    """Of a worker, before its piece was done."""


class _Worker:
    """An actor: a model, and one piece after another."""

    def begin(self, given: tuple[Load, Do, str, int, tuple[str, str]]) -> str:
        """Load the model; its device."""
        import torch

        load, self._do, folder, threads, versions = given
        if versions != _versions():
            raise ConceptGuardError(
                f"a worker on {platform.node()} has conceptguard and torch {_versions()}, and the command {versions}: "
                "install the same ones, else rows would not be the same"
            )
        if os.path.isdir(folder):  # names of files mean the same, where the machine is the same or shares them
            os.chdir(folder)
        torch.set_num_threads(threads)
        self._open = load()
        self._own = self._open.__enter__()
        return str(self._own.device)

    def work(self, piece: Any) -> Any:
        """The result of one."""
        return self._do(self._own, piece, lambda n: None)


def _demand(address: str | None) -> None:
    """Raises OSError where nobody answers at HOST:PORT, or ray://HOST:PORT."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
        except OSError as error:
            raise ConnectionError(f"no answer from {address}: {error}") from None


def _versions() -> tuple[str, str]:
    import torch

    return __version__, str(torch.__version__)


def _short(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
