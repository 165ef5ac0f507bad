"""Relearning: a few training steps on pictures of the concept, by whoever has the weights, loaded under the guard.

MemoRa, of Polowczyk et al., "Memory Self-Regeneration: Uncovering Hidden Knowledge in Unlearned Models", 2025,
https://arxiv.org/abs/2510.03263, trains a LoRA of rank 4 on an erased model. Here it is trained through everything that
the guard does to a prediction, and loaded as users load theirs, so that a guard which refuses such LoRAs is seen to.

A guard changes no weight: that the concept can be trained back is no news, and says how much a LoRA of somebody's can
do under it. Its control has the same size and was trained on nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from conceptguard.attack import Ask, Attack, Attempt, Budget
from conceptguard.runtime.lowrank import Factors

from .noise import examples, learn

RANK, RATE = 4, 2e-3
LEARNT = ("to_q", "to_k", "to_v", "to_out.0")


class Relearn(Attack):
    """A LoRA of rank 4 that is trained on the guarded model with pictures of the concept."""

    name = "relearn"
    needs = "white box"
    paper = "https://arxiv.org/abs/2510.03263"
    vocabulary = False
    judged = True

    @classmethod
    def work(cls, budget: Budget) -> int:
        """A tick for each step; one is trained for all asks."""
        return budget.iterations

    @cached_property
    def learnt(self) -> dict[str, Factors]:
        """What was trained, on the CPU."""
        target, layers = self.target, self.target.layers()
        clean = examples(target, self.budget)
        texts = [f"a picture of {word}" for word in target.words]
        names = [n for n in layers if n.startswith(target.denoiser.name) and n.endswith(LEARNT)]
        pairs = {}
        for name in names:
            out, into = layers.shapes()[name]
            down = torch.randn(RANK, into, generator=self.random) / into**0.5
            pairs[name] = (down.to(clean[0]).requires_grad_(), torch.zeros(out, RANK).to(clean[0]).requires_grad_())
        rows = [one for pair in pairs.values() for one in pair]
        optimiser = torch.optim.AdamW(rows, lr=RATE)
        with _beside({layers[name]: pair for name, pair in pairs.items()}):
            learn(self, clean, rows, optimiser, lambda step: (texts[step % len(texts)], None))
        return {name: Factors(down.detach().cpu(), up.detach().cpu()) for name, (down, up) in pairs.items()}

    def search(self, ask: Ask) -> list[Attempt]:
        """The prompt as it is, with the LoRA."""
        return [Attempt(ask.prompt, lora=self.learnt)]

    def control(self, ask: Ask) -> list[Attempt]:
        """With one as large, of which rows were put in another order."""
        mixed = {
            name: Factors(one.down, one.up[torch.randperm(len(one.up), generator=self.random)])
            for name, one in self.learnt.items()
        }
        return [Attempt(ask.prompt, lora=mixed)]


@contextmanager
def _beside(pairs: dict[nn.Module, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """What is trained stands beside the layers meanwhile, with gradients."""

    def added(pair: tuple[Tensor, Tensor]) -> Any:
        return lambda layer, given, out: out + given[0] @ pair[0].T @ pair[1].T

    handles = [layer.register_forward_hook(added(pair)) for layer, pair in pairs.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
