"""The one loop of everything that is trained: a loss and a step, taken up again where it was interrupted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..errors import ArtifactError

if TYPE_CHECKING:
    from .snapshot import Snapshot
    from .task import Report


class Ended(NamedTuple):
    """first: the step that was begun with, above 0 where a training was taken up; taken: how many steps there are in
    all; value: what was reported last."""

    first: int
    taken: int
    value: float


class Gradients(NamedTuple):
    """value: the loss to report; gradients: of every parameter, whatever it was that they were made of."""

    value: float
    gradients: Sequence[Tensor]


def without_conflict(own: Sequence[Tensor], held: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of one loss without what would make another one larger: a − min(0, a·b) / ‖b‖² b over all parameters
    together, a being ``own`` and b ``held``, so that to first order the other loss does not grow."""
    along = sum(float((a * b).sum()) for a, b in zip(own, held))
    size = sum(float(b.pow(2).sum()) for b in held)
    return [a - min(0.0, along) / size * b if size else a for a, b in zip(own, held)]


@dataclass
class Loop:
    """What every training has beside its losses.

    label: for errors; parameters: what is learnt, on any device; random: of every draw that a loss makes
    snapshot: where it is taken up, None for trainings too short for that; every: so many steps
    also: tensors beside the parameters that losses change in place
    rate: (step) -> learning rate, None for the optimiser's own
    reports: told (step, value) after every step
    masks: what gradients are multiplied by, of each parameter; an optimiser without weight decay leaves alone what is 0
    accumulate: losses that make one step together, each asked for by its own number, 0 to steps · accumulate
    """

    label: str
    parameters: Sequence[Tensor]
    optimiser: torch.optim.Optimizer
    random: torch.Generator
    steps: int
    snapshot: Snapshot | None = None
    every: int = 8
    also: Sequence[Tensor] = ()
    rate: Callable[[int], float] | None = None
    reports: Sequence[Report] = ()
    masks: Sequence[Tensor] = ()
    accumulate: int = 1

    def run(
        self, loss: Callable[[int], Tensor | Gradients], gauge: Callable[[], float] | None = None,
        enough: Callable[[float], bool] | None = None,
    ) -> Ended:  # fmt: skip
        """To the end. A snapshot is written at its steps and at the first one, before the loss is asked.

        loss: (number) -> what is to be made smaller, or the gradients that a step shall go against
        gauge: read after every step and reported in the loss's place;
        enough: of what was reported, ends the training early. Raises ArtifactError when a loss or what is reported is
        no number; the last snapshot stays.
        """
        kept, value = [*self.parameters, *self.also], math.nan
        first = self.snapshot.restore(kept, self.optimiser, self.random) if self.snapshot else 0
        for step in range(first, self.steps):
            if self.snapshot and (step % self.every == 0 or step == first):
                self.snapshot.save(step, kept, self.optimiser, self.random)
            for group in self.optimiser.param_groups if self.rate else ():
                group["lr"] = self.rate(step)  # type: ignore[misc]
            self.optimiser.zero_grad()
            value = sum(self._descend(loss, number, step) for number in self._numbers(step))
            for parameter, mask in zip(self.parameters, self.masks):
                parameter.grad *= mask  # type: ignore[operator]
            self.optimiser.step()
            if gauge is not None:
                self._check(value := gauge(), step)
            for report in self.reports:
                report(step, value)
            if enough is not None and enough(value):
                return Ended(first, step + 1, value)
        return Ended(first, self.steps, value)

    def _numbers(self, step: int) -> range:
        return range(step * self.accumulate, (step + 1) * self.accumulate)

    def _descend(self, loss: Callable[[int], Tensor | Gradients], number: int, step: int) -> float:
        """Gradients of one loss beside those of its step that are there already. Gives its share of the step's."""
        found = loss(number)
        value = float(found.detach()) if isinstance(found, Tensor) else found.value
        self._check(value, step)
        if isinstance(found, Tensor):
            torch.autograd.backward(found / self.accumulate, inputs=list(self.parameters))
        else:
            for parameter, gradient in zip(self.parameters, found.gradients, strict=True):
                own = gradient / self.accumulate
                parameter.grad = own if parameter.grad is None else parameter.grad + own
        return value / self.accumulate

    def _check(self, value: float, step: int) -> None:
        if not math.isfinite(value):
            rate = self.optimiser.param_groups[0]["lr"]
            raise ArtifactError(
                f"{self.label}: loss {value} at step {step}: lower lr (now {rate:g}), or load the model in fp32"
            )
