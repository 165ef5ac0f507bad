"""What a step of a training costs, against the authors' way of doing the same, each in a process of its own.

The peers are written out from the papers' repositories. For every step they sample x_t by a guided trajectory from pure
noise, half of its length on average, ask the denoiser once for every prediction, and, of ESD, keep a second copy of it.
"""

from __future__ import annotations

import copy
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import plugins
from .subjects import subject

Row = dict[str, Any]
CONCEPT = {"name": "dog", "prompts": ["dog"]}
STEPS = {"esd": 50, "spm": 30}  # of the authors' trajectories
GUIDANCE, PUSHED, ANCHORS, ANCHORED = 3.0, 1.0, 4, 1000.0
# One state a step, as the authors take; what else costs as much as theirs.
OURS: dict[str, dict[str, Any]] = {
    "esd": {"batch": 1, "trajectory_steps": 50}, "spm": {"batch": 1, "anchors": ANCHORS - 1},
}  # fmt: skip


def measure(
    method: str, size: str, steps: int, side: int | None, dtype: torch.dtype, threads: int, settings: Row
) -> Row:  # fmt: skip
    """One row: seconds a step, the median of all but the first, and the most memory while it was trained, beside what
    the authors' way takes.

    side: of the latents, None for the model's own; settings: of our training, besides
    Raises PolicyError for settings that the method does not have.
    """
    ours, theirs = (_apart(way, method, size, steps, side, dtype, threads, settings) for way in ("ours", "theirs"))
    row = {
        "method": method, "model": size, "side": ours["side"], "set": settings, "seconds": round(ours["seconds"], 3),
        "seconds_peer": round(theirs["seconds"], 3), "ratio_peer": round(ours["seconds"] / theirs["seconds"], 4),
    }  # fmt: skip
    if ours["mb"] and theirs["mb"]:
        row |= {"mb": ours["mb"], "mb_peer": theirs["mb"], "memory_peer": round(ours["mb"] / theirs["mb"], 3)}
    return row


def _apart(*asked: Any) -> Row:
    """What a process finds that does nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_alone, asked)


def _alone(
    way: str, method: str, size: str, steps: int, side: int | None, dtype: torch.dtype, threads: int, settings: Row
) -> Row:  # fmt: skip
    torch.set_num_threads(threads)
    of = subject(size, "cpu", dtype)
    if side:
        of.pipe.unet.register_to_config(sample_size=side)
    _forget_peak()
    times = list(_ours(method, of.pipe, steps, settings) if way == "ours" else _theirs(method, of.pipe, steps))
    return {"seconds": statistics.median(times[1:] or times), "mb": _peak(), "side": of.pipe.unet.config.sample_size}


class _Enough(Exception):
    """Ends a training that is timed."""


def _ours(method: str, pipe: Any, steps: int, settings: Row) -> list[float]:
    times, last = [], time.perf_counter()

    def report(step: int, value: float) -> None:
        nonlocal last
        times.append(time.perf_counter() - last)
        if len(times) == steps:
            raise _Enough
        last = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder, suppress(_Enough):
        plugins.method(method).make(
            plugins.host_for(pipe), CONCEPT, Path(folder), preserve=["cat"], steps=1000, progress=False, report=report,
            **{**OURS[method], **settings},
        )  # fmt: skip
    return times


def _theirs(method: str, pipe: Any, steps: int) -> Iterator[float]:
    """Seconds of steps. The trajectory is of the mean length, which is drawn anew each time by the authors."""
    host = plugins.host_for(pipe)
    denoiser = host.denoiser()
    embeds = {text: host.encode([text]).embeds.to(denoiser.dtype) for text in ("", "dog", "cat")}
    nothing, concept = embeds[""], embeds["dog"]
    unet = pipe.unet.requires_grad_(False)
    frozen = copy.deepcopy(unet) if method == "esd" else unet
    learnt, on = _whole(unet) if method == "esd" else _membrane(unet)
    optimiser = torch.optim.Adam(learnt, lr=1e-5)

    def says(net: nn.Module, latents: Tensor, t: int, conditions: tuple[Tensor, ...]) -> Tensor:
        rows = torch.cat(conditions)
        said: Tensor = net(latents.expand(len(rows), -1, -1, -1), t, rows, return_dict=False)[0]
        return said

    times = denoiser.timesteps(STEPS[method])
    for _ in range(steps):
        begin = time.perf_counter()
        latents = torch.randn(1, *denoiser.shape, dtype=denoiser.dtype)
        on(True)
        with torch.no_grad():
            for now, then in pairwise(times[: len(times) // 2 + 1]):
                without, towards = says(unet, latents, now, (nothing, concept)).chunk(2)
                latents = denoiser.ddim_step(without + GUIDANCE * (towards - without), latents, now, then)
        loss_of = esd_loss if method == "esd" else spm_loss
        loss = loss_of(partial(says, frozen, latents, then), partial(says, unet, latents, then), on, embeds)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield time.perf_counter() - begin


Says = Callable[[tuple[Tensor, ...]], Tensor]


def esd_loss(frozen: Says, trained: Says, on: Callable[[bool], None], embeds: dict[str, Tensor]) -> Tensor:
    """ESD's three calls."""
    with torch.no_grad():
        without, towards = frozen((embeds[""],)), frozen((embeds["dog"],))
    return F.mse_loss(trained((embeds["dog"],)).float(), (without - PUSHED * (towards - without)).float())


def spm_loss(frozen: Says, trained: Says, on: Callable[[bool], None], embeds: dict[str, Tensor]) -> Tensor:
    """SPM's: every prediction is asked for beside the empty prompt's, which guidance of 1 leaves out."""
    nothing, concept, other = embeds[""], embeds["dog"], embeds["cat"]
    held = (nothing, other) * ANCHORS
    with torch.no_grad():
        on(False)
        towards, neutral = (frozen((nothing, one))[1:] for one in (concept, nothing))
        anchored = frozen(held)[ANCHORS:]
    on(True)
    said, kept = trained((nothing, concept))[1:], trained(held)[ANCHORS:]
    goal = (neutral - PUSHED * (towards - neutral)).float()
    return F.mse_loss(said.float(), goal) + ANCHORED * F.mse_loss(kept.float(), anchored.float())


def _whole(unet: nn.Module) -> tuple[list[Tensor], Callable[[bool], None]]:
    """The weights of cross-attention, learnt in place."""
    found: list[Tensor] = [p.requires_grad_() for name, p in unet.named_parameters() if ".attn2." in name]
    return found, lambda on: None


def _membrane(unet: nn.Module) -> tuple[list[Tensor], Callable[[bool], None]]:
    """A rank-1 adapter in every layer of the attention blocks, in its forward pass."""
    state, learnt = {"on": True}, []

    def beside(layer: Any) -> None:
        out, *into = layer.weight.shape
        down = (torch.rand(1, *into) * 2 - 1).requires_grad_()
        up = torch.zeros(out, 1, *[1] * (len(into) - 1)).requires_grad_()
        learnt.extend([down, up])
        own, apply = layer.forward, F.linear if isinstance(layer, nn.Linear) else F.conv2d
        layer.forward = lambda x: own(x) + apply(apply(x, down.to(x)), up.to(x)) if state["on"] else own(x)

    for name, layer in unet.named_modules():
        if ".attentions." in name and isinstance(layer, nn.Linear | nn.Conv2d):
            beside(layer)
    return learnt, lambda on: state.update(on=on)


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int | None:
    """The most memory since then, MB; None where the system does not tell."""
    try:
        said = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return round(int(said.split("VmHWM:")[1].split()[0]) / 1024)
