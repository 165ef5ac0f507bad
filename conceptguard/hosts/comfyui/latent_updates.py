"""Latents that guards moved, until the sampler has stepped from them.

See ``sampler_state`` for why the state itself is moved. A sampler of ComfyUI hands its state to the model, and steps
from that same tensor: so what moved is added to it in place, once its call of the model is over. Whether it is the same
tensor a sampler's own callback tells, after every step; those that hand the model a copy are refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...errors import GuardError


class LatentUpdates:
    """What was moved in one sampling.

    A call of the model is one call of the diffusion model or, where conditions come one after the other, several: later
    ones are then moved as the first one was.
    """

    def __init__(self) -> None:
        self._state: Tensor | None = None
        self._input: Tensor | None = None
        self._own: list[Tensor] = []  # [rows, ...], in units of the state
        self._handed: list[Tensor] = []  # to the model, since the sampler last told of a step
        self._moved = self._told = self._unmoved = False

    def watched(self, sampler: Any) -> Any:
        """The same sampler of ComfyUI, whose state can be moved; any other one as it is."""
        function = getattr(sampler, "sampler_function", None)
        if function is None:
            return sampler

        def run(model: Any, *args: Any, callback: Any = None, **kwargs: Any) -> Any:
            def stepped(told: dict[str, Any]) -> None:
                self._check(told.get("x"))
                self._told = True
                if callback is not None:
                    callback(told)

            out = function(_Watched(model, self), *args, callback=stepped, **kwargs)
            if not self._told:
                self._check(None)
            return out

        own = copy.copy(sampler)
        own.sampler_function = run
        return own

    def given(self, latents: Tensor) -> Tensor:
        """A copy of what ComfyUI's own model is called with, [rows, ...], that can be moved in place: from it the model
        also computes what is clean."""
        self._input = latents.clone()
        return self._input

    def channels(self, sample: Tensor) -> int:
        """How many channels of what a diffusion model is given are the sampler's own."""
        return int((sample if self._input is None else self._input).shape[1])

    def pending(self, moves: Tensor | None) -> bool:
        """Whether there is anything to move in this call. Raises GuardError where that comes too late for another one,
        which was made from latents where they had been."""
        if moves is not None and self._unmoved:
            raise GuardError(
                "a guard moves the latents, and ComfyUI does not draw this step's conditions in one call, as when "
                "memory is short: draw smaller or fewer pictures at once, or use a guard that leaves latents alone"
            )
        self._unmoved = moves is None and not self._own
        return not self._unmoved

    def move(self, latents: Tensor, moves: Tensor | None, scaled: Callable[[], float]) -> Tensor:
        """What this call's latents [rows, ...] are moved by.

        moves: what guards ask for; scaled: gives the number by which the state is scaled for the diffusion model
        Raises GuardError where the state cannot be moved with them.
        """
        if self._state is None or self._input is None:
            raise GuardError(
                "a guard moves the latents, and this sampler keeps them to itself: use one of ComfyUI's own samplers"
            )
        if latents.shape[1:] != self._state.shape[1:] or len(latents) % len(self._state):
            raise GuardError(
                "a guard moves the latents, and a condition is for a part of the picture alone: take areas and context "
                "windows out of the graph, or use a guard that leaves latents alone"
            )
        scale = scaled()
        if moves is not None:
            self._own.append(moves.float() / scale)
        by = _by_image(self._own, len(self._state))
        by = by.repeat(len(latents) // len(by), *[1] * (by.dim() - 1))
        self._input += by.to(self._input)
        return by * scale

    @contextmanager
    def _call(self, state: Tensor) -> Iterator[None]:
        self._state, self._own, self._unmoved = state, [], False
        self._handed.append(state)
        try:
            yield
            if self._own:
                state += _by_image(self._own, len(state)).to(state)
                self._moved = True
        finally:
            self._state = None

    def _check(self, state: Tensor | None) -> None:
        if self._moved and not any(handed is state for handed in self._handed):
            raise GuardError(
                "a guard moves the latents, and this sampler hands the model a copy of them: use another one, such as "
                "euler or dpmpp_2m"
            )
        self._handed, self._moved = [], False


def _by_image(moves: list[Tensor], images: int) -> Tensor:
    """What each image is moved by: the mean over the rows of it that were moved. Row r is of image r modulo images."""
    by = torch.zeros_like(moves[0][:images])
    for image in range(images):
        found = [rows[row] for rows in moves for row in range(image, len(rows), images) if rows[row].any()]
        if found:
            by[image] = torch.stack(found).mean(0)
    return by


class _Watched:
    """What a sampler calls as its model."""

    def __init__(self, model: Any, moves: LatentUpdates):
        self._model, self._moves = model, moves

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        with self._moves._call(x):
            return self._model(x, *args, **kwargs)
