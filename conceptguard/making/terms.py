"""Low-rank terms beside a model's layers while they are learnt, and as an artifact keeps them.

What is learnt is a change ΔW of some layers, whole or of a rank. The model's own weights are never touched, and the
same low-rank runtime runs the change that will run it under a guard.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..generation.conditioning import Encoded, stack
from ..runtime.banks import Banks
from ..runtime.gates import Gate
from ..runtime.lowrank import Factors, LayerIndex, Terms

if TYPE_CHECKING:
    from ..protocols import Denoiser


class Frozen(Protocol):
    """A text encoder or a denoiser."""

    def frozen(self) -> AbstractContextManager[None]:
        """No gradients for its own weights meanwhile."""


class TermsInTraining:
    """Low-rank or whole changes of layers, parameters of an optimiser while they are attached.

    rank: of each; None learns whole matrices, of which one factor is the identity
    start: changes that some of them begin with, learnt on together with ``rank`` more ranks; others do nothing yet
    """

    def __init__(
        self, layers: LayerIndex, names: Sequence[str], rank: int | None, random: torch.Generator,
        start: Mapping[str, Factors] = MappingProxyType({}),
    ):  # fmt: skip
        self._layers, self.rank = layers, rank
        self._start: dict[str, Factors] = {}
        shapes = layers.shapes()
        for name in dict.fromkeys([*names, *start]):
            out, into = shapes[name]
            given = start.get(name, Factors(torch.zeros(0, into), torch.zeros(out, 0)))
            up = given.scale * given.up.float()
            if rank is None:
                self._start[name] = Factors(torch.eye(into), up @ given.down.float())
            else:
                down = (torch.rand(rank, into, generator=random) * 2 - 1) / math.sqrt(into)
                self._start[name] = Factors(
                    torch.cat([given.down.float(), down]), torch.cat([up, torch.zeros(out, rank)], 1)
                )
        self.banks = Banks(layers, [], self)

    @contextmanager
    def attached(self, frozen: Sequence[Frozen]) -> Iterator[list[Tensor]]:
        """Beside what is frozen meanwhile, shut; gives the parameters, float32 whatever the model computes in."""
        with ExitStack() as stack:
            for part in frozen:
                stack.enter_context(part.frozen())
            self.banks = Banks(self._layers, [Terms(self, self._start, Gate())], self)
            stack.callback(self.banks.detach)
            for name, bank in self.banks.banks.items():
                down, up = self._start[name].down, self._start[name].up.T.contiguous()
                bank.down, bank.up = (factor.to(bank.down.device, torch.float32) for factor in (down, up))
            learnt = [(bank.up,) if self.rank is None else (bank.down, bank.up) for bank in self.banks.banks.values()]
            yield [factor.requires_grad_() for pair in learnt for factor in pair]

    def open(self, rows: int | Sequence[float]) -> None:
        """For the next call of what they lie beside, which has so many rows; 0 shuts them. Or how far, row by row."""
        gates = torch.ones(rows, 1) if isinstance(rows, int) else torch.tensor(rows)[:, None]
        for prefix in self.banks.prefixes():
            self.banks.set(prefix, gates if len(gates) else None)

    def changes(self) -> dict[str, Factors]:
        """What was learnt so far, on the CPU. Before they are detached."""
        return {
            name: Factors(bank.down.detach().cpu().clone(), bank.up.detach().cpu().T.contiguous())
            for name, bank in self.banks.banks.items()
        }


def predictions(
    denoiser: Denoiser, terms: TermsInTraining, latents: Tensor, times: Tensor, *conditions: Encoded,
    learnt: bool | Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """What a denoiser says of each condition at the same latents, in one pass: [batch, channels, h, w] each, float32.

    latents: [batch, ...]; times: [batch]
    learnt: with the terms as they are by now, or as if there were none; of all conditions or of each. Gates stay as
    they are: gradients need them so. Where gradients go through what is said with and without, one pass makes both
    """
    n, rows = len(conditions), len(latents)
    if isinstance(learnt, bool):
        terms.open(n * rows if learnt else 0)
    else:
        terms.open([float(one) for one in learnt for _ in range(rows)])
    return denoiser(torch.cat([latents] * n), torch.cat([times] * n), stack(*conditions)).float().chunk(n)


def cut_to_rank(terms: Mapping[str, Factors], rank: int | None) -> tuple[dict[str, Factors], float]:
    """Terms of at most a rank, and the truncation error: how much of all changes together is lost, relative, by the
    Frobenius norm (Eckart and Young: no terms of that rank lose less). None keeps everything."""
    found, lost, whole = {}, 0.0, 0.0
    for name, (down, up, scale) in terms.items():
        own = down.shape[0]
        if rank is None or own <= rank:
            found[name], error = Factors(down, up, scale), 0.0
            size = float((scale * up.double() @ down.double()).pow(2).sum())
        else:
            left, values, right = torch.linalg.svd(scale * up.double() @ down.double(), full_matrices=False)
            found[name] = Factors(right[:rank].float(), (left[:, :rank] * values[:rank]).float())
            size, error = float(values.pow(2).sum()), float(values[rank:].pow(2).sum())
        lost, whole = lost + error, whole + size
    return found, math.sqrt(lost / whole) if whole else 0.0
