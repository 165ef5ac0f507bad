"""Prompts that are searched for as input vectors, and are words all the same: what PEZ and P4D share.

Forward goes the nearest word, backward the gradient to the vector that it was nearest to (Wen et al., "Hard Prompts
Made Easy", NeurIPS 2023, https://arxiv.org/abs/2302.03668).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from conceptguard.attack import Target

RATE, DECAY = 0.1, 0.1  # of AdamW, in both papers


class HardPrompt:
    """``count`` free tokens, begun with random ones.

    free: the vectors that gradients move, [count, hidden]; only words of the target's vocabulary are candidates
    """

    def __init__(self, target: Target, count: int, random: torch.Generator):
        self._ids, self._random = target.vocabulary, random
        self._rows = target.vectors()[target.vocabulary]
        self._unit = normalize(self._rows, dim=1)
        self.free = self._rows[self.by_chance(count)].clone().requires_grad_()
        self.optimiser = torch.optim.AdamW([self.free], lr=RATE, weight_decay=DECAY)

    def by_chance(self, count: int) -> Tensor:
        """Places of random words in the vocabulary, [count]."""
        return torch.randint(len(self._ids), (count,), generator=self._random)

    @torch.no_grad()
    def _nearest(self) -> Tensor:
        return (normalize(self.free, dim=1) @ self._unit.T).argmax(1)

    def words(self) -> tuple[list[int], Tensor]:
        """(ids of the nearest words, their vectors [count, hidden] with gradients towards ``free``)."""
        at = self._nearest()
        return self._ids[at.to(self._ids.device)].tolist(), self._rows[at] + (self.free - self.free.detach())

    def step(self, loss: Tensor | None) -> None:
        """Against the gradient of a loss. None, or one that knows no gradient, is of a prompt that nothing came of:
        then one of the words is exchanged by chance."""
        self.optimiser.zero_grad()
        if loss is not None and loss.requires_grad:
            (self.free.grad,) = torch.autograd.grad(loss, [self.free])
            self.optimiser.step()
            return
        with torch.no_grad():
            place = int(torch.randint(len(self.free), (1,), generator=self._random))
            self.free[place] = self._rows[self.by_chance(1)[0]]


def random_ids(target: Target, count: int, random: torch.Generator) -> list[int]:
    """Words of the vocabulary by chance."""
    at = torch.randint(len(target.vocabulary), (count,), generator=random)
    return target.vocabulary[at].tolist()  # type: ignore[no-any-return]


def fitting(target: Target, before: Sequence[int], prompt: Sequence[int]) -> list[int]:
    """Ids before those of a prompt, of which the end is cut off where the window is full."""
    return [*before, *prompt][: target.window]
