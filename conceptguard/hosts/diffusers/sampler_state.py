"""Latents that guards moved, until the sampler has stepped from them.

A guard cannot have other latents by changing the prediction: what a scheduler makes of prediction and latents is its
own affair. It may keep a history, add noise, or step twice, so a correction of the prediction that is right for one
scheduler leaves something behind in another. Here the state itself is moved: the denoiser is called with the moved
latents, and the scheduler's next step is handed the moved sample, as if the caller had held it all along. That is
right for every scheduler, by construction.

Pipelines keep that state in a local variable. The one place where all of them show it is the ``sample`` that they hand
to ``scheduler.step``, so for this one call, and only after a move, the host stands in front of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import GuardError

_ABSENT = object()


class SamplerState:
    """The moves of one denoising step.

    A step is one call of the denoiser or, where branches or composed prompts come one after the other, several: later
    ones are then moved as the first one was.
    """

    def __init__(self) -> None:
        self._calls: list[tuple[Tensor, Tensor]] = []  # latents as given, and their own moves, one row each
        self._timestep = float("nan")
        self._scheduler: Any = None
        self._step: Any = _ABSENT  # what stood before the scheduler's own step already

    def move(
        self, scheduler: Any, timestep: float, latents: Tensor, moves: Tensor | None, image: Sequence[int]
    ) -> Tensor | None:
        """What this call's latents are moved by, [rows, ...]; None for nothing.

        moves: what guards ask for; image: for each row of which image it is. Rows of one image move together
        Raises GuardError when an earlier step's moves have not reached the sampler.
        """
        if self._calls and timestep != self._timestep:
            self.clear()
            raise GuardError(
                "a guard moved the latents, and pipe.scheduler did not step from them: step with the pipeline's own "
                "scheduler, or take the guard out of the policy"
            )
        own = [m for given, m in self._calls if given.shape == latents.shape] + ([] if moves is None else [moves])
        if moves is not None:
            self._calls.append((latents, moves))
            self._timestep = timestep
            self._stand_before(scheduler)
        if not own:
            return None
        by = torch.zeros_like(own[0])
        for one in set(image):
            rows = [row for row, its in enumerate(image) if its == one]
            found = [m[row] for m in own for row in rows if m[row].any()]
            if found:
                by[rows] = torch.stack(found).mean(0)
        return by

    def _stand_before(self, scheduler: Any) -> None:
        if self._scheduler is not None:
            return

        def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            calls = self._calls
            self.clear()
            return scheduler.step(model_output, timestep, moved(sample, calls), *args, **kwargs)

        self._step = vars(scheduler).get("step", _ABSENT)
        scheduler.step = step
        self._scheduler = scheduler

    def pending(self) -> bool:
        """Whether there are moves from which no step was made yet."""
        return bool(self._calls)

    def clear(self) -> None:
        """Forget the moves, and give the scheduler its own step back."""
        if self._scheduler is not None:
            del self._scheduler.step
            if self._step is not _ABSENT:
                self._scheduler.step = self._step
        self._calls, self._scheduler, self._step = [], None, _ABSENT


def moved(sample: Tensor, calls: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """A sampler's state [images, ...] after the moves of the denoiser's rows: row r is of image r modulo images.

    What the denoiser is given is the state times one number, the scheduler's own; where several rows of an image were
    moved, composed prompts, the image goes by their mean. Raises GuardError where given latents are not the state.
    """
    images, found = len(sample), [[] for _ in sample]  # type: ignore[var-annotated]
    for given, moves in calls:
        scale = _scale(given, sample)
        for row, move in enumerate(moves):
            if move.any():
                found[row % images].append(move.float() / scale)
    out = sample.clone()
    for image, by in enumerate(found):
        if by:
            out[image] = (sample[image].float() + torch.stack(by).mean(0)).to(sample)
    return out


def _scale(given: Tensor, sample: Tensor) -> float:
    """The number by which a scheduler scales its state for the denoiser."""
    if len(given) % len(sample) == 0 and given.shape[1:] == sample.shape[1:]:
        state = sample.float().repeat(len(given) // len(sample), *[1] * (sample.dim() - 1))
        scale = float((given.float() * state).sum() / (state * state).sum())
        if (given.float() - scale * state).norm() <= 0.01 * given.float().norm():
            return scale
    raise GuardError(
        "a guard moved the latents, and the scheduler steps from others than the denoiser was given: this guard cannot "
        "work in this pipeline"
    )
