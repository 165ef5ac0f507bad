"""A session on a plain torch module: a policy's guards are folded into its weights, from attach to detach."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import BaseMismatch, GuardError, SessionError
from ..receipt import Receipt, Row
from ..runtime.folded import Folded
from .base import BaseSession
from .generations import publish, published

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ..host import Host
    from ..policy import Policy
    from ..runtime.lowrank import Factors, LayerIndex, Terms
    from .using import Source, Using


class ModuleSession(BaseSession):
    """The guards of one policy at work on one module. Made by ``attach``; a context manager that detaches.

    No prompt opens a guard here: it acts on every input, as far as its strength says. Of whoever calls a part of the
    module that part is guarded too, and the receipt tells of calls of the whole.
    """

    calls = frozenset({"cross_attention"})

    def __init__(self, host: Host, policy: Policy):
        super().__init__(host, policy)
        self.host: Host = host
        self._lock = host.turn()
        self._demand_still()
        layers = host.layers()
        owner = {id(method): i for i, method in enumerate(self.methods)}
        given = [(owner[id(terms.owner)], terms) for terms in self._call("cross_attention", layers=layers)]
        self._counts = {i: 0 for i, _ in given}
        changes: dict[str, Tensor] = {}
        for i, terms in sorted(given, key=lambda pair: pair[0]):
            own = changes_of(terms, layers)
            self._counts[i] = len(own)
            for name, change in own.items():
                changes[name] = changes[name] + change if name in changes else change
        self._folded = Folded(host.part(""), changes)
        self._receipt = self._start(0)
        host.attach(self)
        try:
            self._folded.fold()
        except BaseException:
            host.detach()
            self._folded.unfold()
            raise
        self.attached = True

    def _demand_still(self) -> None:
        if self.host.target.training:
            raise SessionError(
                f"{self.host.name} is in training mode, in which every call changes it: call eval() on it first"
            )

    @property
    def receipt(self) -> Receipt:
        """The record of the last call of the thread or task that asks; where it had none, of the last one."""
        return published(self) or self._receipt

    def using(self, policy: Source) -> AbstractContextManager[Using]:
        """Raises SessionError: what is folded into weights acts in every call."""
        raise SessionError(
            f"{self.host.name} is under one policy at a time, since its guards are in its weights: detach '"
            f"{self.policy.name}', then attach another one"
        )

    def detach(self) -> None:
        """Give the module its own weights back, and remove every hook. Raises SessionError when already detached."""
        with self._lock:
            super().detach()
            self._folded.unfold()

    # What the host calls, around every call of the module.

    def before(self, module: Any, rows: int) -> None:
        """A call begins: what is folded in must be there. Raises GuardError, and nothing is returned."""
        self.demand_attached()
        if module is not self.host.target:
            raise GuardError("a copy of a guarded module has its guards without their session: detach before copying")
        try:
            self._demand_still()
        except SessionError as error:
            raise GuardError(str(error)) from None
        self._folded.check()
        self._receipt = self._start(rows)
        self._receipt.seconds = -time.perf_counter()
        publish(self, self._receipt)

    def after(self) -> None:
        """It ended, and what was folded in ran."""
        own = self.receipt
        own.steps, own.seconds = 1, own.seconds + time.perf_counter()
        for i in self._counts:
            if own.acts[i].layers and any(own.acts[i].gates):
                own.acts[i].steps = [0]

    def _start(self, rows: int) -> Receipt:
        device, dtype = self.host.device_dtype()
        own = Receipt(self.policy.name, self.host.name, str(device), str(dtype).removeprefix("torch."), self.acts())
        own.rows = [Row(f"{rows} inputs", None)]
        for i, count in self._counts.items():
            own.acts[i].layers, own.acts[i].gates = count, [self.methods[i].guard.strength]
        return own


def changes_of(terms: Terms, layers: LayerIndex) -> dict[str, Tensor]:
    """What the terms of a guard that is always open amount to, by the names of tensors. Raises SessionError for one
    that waits for a prompt, BaseMismatch for a layer that is not there."""
    if terms.gate.prompts:
        raise SessionError("a guard waits for a prompt, and a plain module has none: set gate: always in its policy")
    strength = terms.gate.strength
    if not strength:
        return {}
    found = {name: strength * change for name, change in terms.whole.items()}
    for name, factors in terms.factors.items():
        if name not in layers:
            raise BaseMismatch(f"the base model has no layer {name}: use an artifact made for this base model")
        change = strength * _product(factors, getattr(layers[name], "weight", None), name)
        key = f"{name}.weight"
        found[key] = found[key] + change if key in found else change
    return found


def _product(factors: Factors, weight: Any, name: str) -> Tensor:
    down, up, scale = factors
    if not isinstance(weight, Tensor):
        raise BaseMismatch(f"layer {name} keeps its weight packed, and nothing can be folded into it: leave it out")
    product = scale * up.float().flatten(1) @ down.float().flatten(1)
    if product.numel() != weight.numel() or down.shape[1:] != weight.shape[1:]:
        raise BaseMismatch(f"layer {name} is {list(weight.shape)}, and a term of another: use an artifact of this base")
    return torch.reshape(product, weight.shape)
