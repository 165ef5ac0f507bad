"""GUARD's prompt classifier: three layers on the mean-pooled hidden state of the last layer but one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER = -2  # of ``hidden_states``: what the last layer reads
INNER = 256


class PromptClassifier(nn.Module):
    """Pooled states [prompts, width] -> one logit each, [prompts]; above 0 is "forget"."""

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
        return self.layers((states - self.mean) / self.std)[:, 0]  # type: ignore[no-any-return]


def train(
    net: PromptClassifier,
    forget: Tensor,
    retain: Tensor,
    steps: int,
    lr: float,
    random: torch.Generator,
    report: Callable[[int, float], None],
) -> None:
    """Logistic loss on batches of half and half. forget, retain: pooled states [n, width]."""
    everything = torch.cat([forget, retain])
    net.mean.copy_(everything.mean(0))
    net.std.copy_(everything.std(0).clamp_min(1e-6))
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    wanted = torch.tensor([1.0] * 64 + [0.0] * 64)
    net.train()
    for step in range(steps):
        some = [data[torch.randint(len(data), (64,), generator=random)] for data in (forget, retain)]
        loss = F.binary_cross_entropy_with_logits(net(torch.cat(some)), wanted)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        report(step, float(loss.detach()))
    net.eval()
