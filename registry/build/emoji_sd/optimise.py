"""Muon for matrices and convolutions, AdamW for all else, which takes half of the steps (Jordan et al., 2024).

torch's Muon takes matrices only, so that a convolution's weight is handed to it as one row for each output channel.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Optimiser:
    """Steps of both. lr: of Muon, which is multiplied with each step's ``rate``; adam_lr: of AdamW likewise."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 0.02, adam_lr: float = 1e-3):
        self.params = list(params)
        self.matrices = [p for p in self.params if p.ndim >= 2 and min(p.flatten(1).shape) >= 16]
        chosen = {id(p) for p in self.matrices}
        rest = [p for p in self.params if id(p) not in chosen]
        self.flat = [nn.Parameter(_rows(p.detach())) for p in self.matrices]
        self.muon = torch.optim.Muon(self.flat, lr=lr, weight_decay=0.0)
        self.adam = torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.99), weight_decay=0.0)
        self.peaks = (lr, adam_lr)

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step at ``rate`` (0 to 1) of both learning rates, with the gradients that lie at the parameters."""
        for optim, peak in zip((self.muon, self.adam), self.peaks, strict=True):
            for group in optim.param_groups:
                group["lr"] = rate * peak
        for p, flat in zip(self.matrices, self.flat, strict=True):
            flat.grad = None if p.grad is None else _rows(p.grad)
        self.muon.step()
        self.adam.step()
        for p, flat in zip(self.matrices, self.flat, strict=True):
            p.copy_(flat.view(p.shape))

    def state_dict(self) -> dict:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Takes a state up; the parameters themselves are loaded before."""
        self.muon.load_state_dict(state["muon"]), self.adam.load_state_dict(state["adam"])
        with torch.no_grad():
            for p, flat in zip(self.matrices, self.flat, strict=True):
                flat.copy_(_rows(p))


def _rows(weight: Tensor) -> Tensor:
    """[out, ...] as a matrix [out, n] in memory of its own, whatever the weight's memory format."""
    return weight.contiguous().flatten(1).clone()
