"""Muon for matrices and convolutions, AdamW for all else, which takes half of the steps (Jordan et al., 2024).

torch's Muon takes matrices only, so that a convolution's weight is handed to it as one row for each output channel.
Processes that train side by side orthogonalise a share of the matrices each, and tell one another what came out.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Optimiser:
    """Steps of both. lr: of Muon, which is multiplied with each step's ``rate``; adam_lr: of AdamW likewise.

    rank, world: of the process, where several step with the same gradients.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 0.02, adam_lr: float = 1e-3, rank: int = 0, world: int = 1
    ):
        self.params = list(params)
        self.matrices = [p for p in self.params if p.ndim >= 2 and min(p.flatten(1).shape) >= 16]
        chosen = {id(p) for p in self.matrices}
        rest = [p for p in self.params if id(p) not in chosen]
        self.flat = [nn.Parameter(_rows(p.detach())) for p in self.matrices]
        self.muon = torch.optim.Muon(self.flat, lr=lr, weight_decay=0.0)
        self.adam = torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.99), weight_decay=0.0)
        self.peaks = (lr, adam_lr)
        self.rank, self.world = rank, world
        self.owners = _shares([_cost(flat) for flat in self.flat], world)

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step at ``rate`` (0 to 1) of both learning rates, with the gradients that lie at the parameters."""
        for optim, peak in zip((self.muon, self.adam), self.peaks, strict=True):
            for group in optim.param_groups:
                group["lr"] = rate * peak
        for p, flat, owner in zip(self.matrices, self.flat, self.owners, strict=True):
            flat.grad = None if p.grad is None or owner != self.rank else _rows(p.grad)
        self.muon.step()
        self.adam.step()
        self._exchange(list(self.flat))
        for p, flat in zip(self.matrices, self.flat, strict=True):
            p.copy_(flat.view(p.shape))

    @torch.no_grad()
    def _exchange(self, tensors: list[Tensor]) -> None:
        """Every process gets each tensor, of one for each matrix, from the process that owns the matrix."""
        for rank in range(self.world if self.world > 1 else 0):
            theirs = [t for t, owner in zip(tensors, self.owners, strict=True) if owner == rank]
            together = torch.cat([t.reshape(-1) for t in theirs])
            dist.broadcast(together, rank)
            for t, part in zip(theirs, together.split([t.numel() for t in theirs]), strict=True):
                t.copy_(part.view_as(t))

    def state_dict(self) -> dict:
        """The whole state; where several processes step, all of them must ask at the same step."""
        buffers = [self.muon.state[flat] for flat in self.flat]
        moments = [b["momentum_buffer"] if b else torch.zeros_like(f) for b, f in zip(buffers, self.flat, strict=True)]
        self._exchange(moments)
        for flat, moment in zip(self.flat, moments, strict=True):
            self.muon.state[flat]["momentum_buffer"] = moment
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Takes a state up, of any number of processes; the parameters themselves are loaded before."""
        self.muon.load_state_dict(state["muon"]), self.adam.load_state_dict(state["adam"])
        with torch.no_grad():
            for p, flat in zip(self.matrices, self.flat, strict=True):
                flat.copy_(_rows(p))


def _rows(weight: Tensor) -> Tensor:
    """[out, ...] as a matrix [out, n] in memory of its own, whatever the weight's memory format."""
    return weight.contiguous().flatten(1).clone()


def _cost(matrix: Tensor) -> float:
    """What orthogonalising takes, but for a factor: products of the smaller side with the whole."""
    small, large = sorted(matrix.shape)
    return small * small * (2 * large + small)


def _shares(costs: list[float], world: int) -> list[int]:
    """Which process does what, the most expensive first, each by who has least to do."""
    owners, load = [0] * len(costs), [0.0] * world
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[i] = min(range(world), key=lambda rank: load[rank])
        load[owners[i]] += costs[i]
    return owners
