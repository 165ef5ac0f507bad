"""One training on all cores, and what it is taken up from.

On a CPU, one process per core with one thread each, averaging gradients over gloo, holds up better than one process
with several threads: threads of one operator wait for each other thousands of times a step, processes wait once.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def side_by_side(worker: Callable[..., None], args: Sequence[Any], processes: int | None = None) -> None:
    """``worker(rank, world, *args)`` in each process: by default one per core and at most four, and one on a GPU."""
    if processes is None:
        processes = 1 if torch.cuda.is_available() else min(4, os.cpu_count() or 1)
    if processes == 1:
        worker(0, 1, *args)
    else:
        torch.multiprocessing.spawn(worker, (processes, *args), nprocs=processes)


@contextmanager
def together(rank: int, world: int, port: int) -> Iterator[torch.device]:
    """Around a worker: where it computes; meanwhile it can ask the others."""
    if world > 1:
        torch.set_num_threads(1)
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(port))
        dist.init_process_group("gloo", rank=rank, world_size=world)
    yield torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def agreed(done: float, save: bool, world: int) -> tuple[float, bool]:
    """What the first process says: how much of the training is done, on which the learning rate depends, and whether
    to save now."""
    now = torch.tensor([done, float(save)])
    if world > 1:
        dist.broadcast(now, 0)
    return float(now[0]), bool(now[1])


def average_gradients(params: Sequence[nn.Parameter], world: int) -> None:
    """Each gradient becomes the mean of all processes'."""
    if world == 1:
        return
    flat = torch.cat([p.grad.reshape(-1) for p in params])
    dist.all_reduce(flat)
    flat /= world
    at = 0
    for p in params:
        p.grad.copy_(flat[at : at + p.numel()].view_as(p))
        at += p.numel()


def save(state: Mapping[str, Any], path: Path) -> None:
    """A checkpoint, whole or not at all."""
    torch.save(dict(state), path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def keep_memory() -> None:
    """Memory that is freed stays with the process, where the C library is glibc; elsewhere this does nothing.

    A step of training on a CPU frees as many megabytes as it takes. To get them back from the system, page by page, is
    a tenth of the judge's step and more.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim, pad, threshold = -1, -2, -3  # M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of malloc.h
        for what, size in ((threshold, 1 << 25), (trim, (1 << 31) - 1), (pad, 1 << 28)):
            mallopt(what, size)
