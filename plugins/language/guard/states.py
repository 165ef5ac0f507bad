"""GUARD's prompt classifier as published: three layers on the mean of the model's hidden states, of the last but one.

For comparison, and for models whose states tell more than a prompt's words do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER = -2  # of ``hidden_states``: what the last layer reads
INNER = 256
BATCH = 32  # of each kind


class StatesClassifier(nn.Module):
    """Mean states of prompts, [prompts, width] -> logits, [prompts]; above 0 is "forget"."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, dropout: float = 0.1):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.layers = nn.Sequential(
            nn.Linear(width, INNER), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(INNER, INNER), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(INNER, 1),
        )  # fmt: skip

    def forward(self, states: Tensor) -> Tensor:
        """Logits."""
        found: Tensor = self.layers((states - self.mean) / self.std)[:, 0]
        return found

    @staticmethod
    def read(tensors: Mapping[str, Tensor]) -> StatesClassifier:
        """Back from ``state_dict``. Raises KeyError or RuntimeError for what is missing."""
        net = StatesClassifier(len(tensors["mean"]))
        net.load_state_dict(dict(tensors))
        return net.eval().requires_grad_(False)


def states_of(host: Any, prompts: Sequence[str], report: Callable[[int, float], None], done: int = 0) -> Tensor:
    """Mean states of prompts, [prompts, width]: one by one, as they are read when they are asked."""
    found = []
    for i, prompt in enumerate(prompts):
        found.append(host.pool([host.tokenizer(prompt).input_ids], LAYER)[0].cpu())
        report(done + i, 0.0)
    return torch.stack(found)


def learn_states(
    forget: Tensor, retain: Tensor, steps: int, lr: float, seed: int, report: Callable[[int, float], None]
) -> StatesClassifier:
    """Logistic loss on batches of half and half. forget, retain: [prompts, width]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = StatesClassifier(forget.shape[1])
        everything = torch.cat([forget, retain])
        net.mean.copy_(everything.mean(0))
        net.std.copy_(everything.std(0).clamp_min(1e-6))
        optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        wanted = torch.tensor([1.0] * BATCH + [0.0] * BATCH)
        for step in range(steps):
            some = torch.cat([data[torch.randint(len(data), (BATCH,))] for data in (forget, retain)])
            loss = F.binary_cross_entropy_with_logits(net(some), wanted)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            report(step, float(loss.detach()))
    return net.eval().requires_grad_(False)
