"""GUARD's prompt classifier: three layers on the hidden states of the last layer but one.

As published it reads their mean over the prompt. A small model's mean tells the form of a question better than whom it
is about, so that by default the three layers read every token, and the prompt counts as its most telling one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pool = Literal["max", "mean"]

LAYER = -2  # of ``hidden_states``: what the last layer reads
INNER = 256
BATCH = 32  # of each kind


class PromptClassifier(nn.Module):
    """States of prompts, [tokens, width] each -> one logit each, [prompts]; above 0 is "forget"."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, pool: Pool = "max", dropout: float = 0.1):
        super().__init__()
        self.pool = pool
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.layers = nn.Sequential(
            nn.Linear(width, INNER), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(INNER, INNER), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(INNER, 1),
        )  # fmt: skip

    def read(self, states: Sequence[Tensor]) -> list[Tensor]:
        """What the layers are given of each prompt: its tokens, or their mean."""
        return [s.mean(0, keepdim=True) for s in states] if self.pool == "mean" else list(states)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Logits."""
        parts = self.read(states)
        every = self.layers((torch.cat(parts) - self.mean) / self.std)[:, 0]
        return torch.stack([own.amax() for own in every.split([len(part) for part in parts])])


def train(
    net: PromptClassifier,
    forget: Sequence[Tensor],
    retain: Sequence[Tensor],
    steps: int,
    lr: float,
    random: torch.Generator,
    report: Callable[[int, float], None],
) -> None:
    """Logistic loss on batches of half and half. forget, retain: states of prompts, [tokens, width] each."""
    everything = torch.cat(net.read([*forget, *retain]))
    net.mean.copy_(everything.mean(0))
    net.std.copy_(everything.std(0).clamp_min(1e-6))
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    wanted = torch.tensor([1.0] * BATCH + [0.0] * BATCH)
    net.train()
    for step in range(steps):
        some = [
            data[i] for data in (forget, retain) for i in torch.randint(len(data), (BATCH,), generator=random).tolist()
        ]
        loss = F.binary_cross_entropy_with_logits(net(some), wanted)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        report(step, float(loss.detach()))
    net.eval()
