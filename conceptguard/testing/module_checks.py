"""The promises, asked of a method for plain torch modules."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .. import plugins
from ..errors import GuardError, SessionError
from ..method import Method
from ..sessions.attach import attach
from ..sessions.module import ModuleSession
from .bench import close
from .case import ContractBroken, ModuleCase, demand
from .closed import demand_guard_error
from .kit_guards import raising
from .traces import Snapshot, differences, snapshot


class ModuleBench:
    """Runs a case: one module, its inputs, and what it gives with and without guards."""

    def __init__(self, case: ModuleCase):
        self.case = case

    @cached_property
    def pipe(self) -> nn.Module:
        """The module."""
        return self.case.load()

    @cached_property
    def method(self) -> type[Method]:
        """The method that is judged."""
        return plugins.method(self.case.guard["method"])

    def policy(self, *guards: Mapping[str, Any]) -> dict[str, Any]:
        """A policy of these guards, by default the case's own."""
        return {"name": "contract", "guards": [dict(guard) for guard in guards or [self.case.guard]]}

    @contextmanager
    def attached(self, *guards: Mapping[str, Any], module: nn.Module | None = None) -> Iterator[ModuleSession]:
        """The module under these guards (by default the case's own)."""
        with attach(self.pipe if module is None else module, self.policy(*guards)) as session:
            yield session  # type: ignore[misc]

    @torch.no_grad()
    def generate(self, module: nn.Module, given: Any = None, rows: slice = slice(None)) -> Tensor:
        """What a module gives for some rows of the inputs. given: of the kit's other benches, prompts"""
        first = next(module.parameters())
        given = self.case.inputs[rows].to(first.device)
        out = module(given.to(first.dtype) if given.is_floating_point() else given)  # places stay whole numbers
        return getattr(out, "logits", out).float()  # type: ignore[no-any-return]

    def bare(self) -> Tensor:
        """What it gives without guards."""
        return self.generate(self.pipe)

    def seen(self) -> Snapshot:
        """All that a guard could leave on it."""
        return snapshot(SimpleNamespace(components={"model": self.pipe}))


def it_acts(bench: ModuleBench) -> None:
    """The guard changes what the module gives, and more than rounding would."""
    bare = bench.bare()
    with bench.attached():
        demand(not close(bench.generate(bench.pipe), bare, 1e-3), "the module gives what it gives unguarded")


def no_trace(bench: ModuleBench) -> None:
    """After detach: the same weights to the last bit, hooks and attributes, and nobody remembers the session."""
    before = bench.seen()
    with bench.attached() as session:
        bench.generate(bench.pipe)
        what = [weakref.ref(thing) for thing in (session, *session.methods)]
    del session
    _demand_no_trace(bench, before, what, "after detach")


def no_trace_after_error(bench: ModuleBench) -> None:
    """An exception in the middle of a call, and then detach, leave nothing."""
    before = bench.seen()
    with bench.attached() as session:
        what = [weakref.ref(thing) for thing in (session, *session.methods)]
        try:
            bench.pipe(bench.case.inputs[..., :0])
        except Exception:
            demand(not session.receipt.opened, "a call that failed is in the receipt as if the guard had acted")
    del session
    _demand_no_trace(bench, before, what, "after an exception and detach")


def _demand_no_trace(bench: ModuleBench, before: Snapshot, what: list[weakref.ref[Any]], when: str) -> None:
    gc.collect()
    left = differences(before, bench.seen())
    demand(not left, f"{when} these are not what they were: {', '.join(left[:4])} ({len(left)} in all)")
    alive = [ref() for ref in what if ref() is not None]
    demand(not alive, f"{when} something still refers to {alive[:1]}")


def guard_that_raises(bench: ModuleBench) -> None:
    """An exception in the method becomes a GuardError that names it, and nothing is attached."""
    before = bench.seen()

    def run() -> None:
        with bench.attached():
            bench.generate(bench.pipe)

    with raising(bench.method, "cross_attention"):
        demand_guard_error(run, bench.method.name, "cross_attention raises")
    demand(not differences(before, bench.seen()), "cross_attention raised, and the module is not what it was")


def training_mode_refused(bench: ModuleBench) -> None:
    """A module in training mode, in which every call changes it, is neither attached to nor called."""
    module = copy.deepcopy(bench.pipe).train()
    _demand_refused(lambda: attach(module, bench.policy()), SessionError, "a module in training mode")
    module.eval()
    with bench.attached(module=module):
        module.train()
        _demand_refused(lambda: bench.generate(module), GuardError, "a module that is put into training mode")
        module.eval()


def other_weights_refused(bench: ModuleBench) -> None:
    """Weights that somebody changes while a policy is attached are found, and nothing is returned."""
    module = copy.deepcopy(bench.pipe)
    session = attach(module, bench.policy())
    for tensor in module.parameters():
        tensor.data.mul_(0.5)
    _demand_refused(lambda: bench.generate(module), GuardError, "weights that were changed")
    _demand_refused(session.detach, SessionError, "detaching from weights that were changed")


def _demand_refused(run: Any, error: type[Exception], what: str) -> None:
    try:
        run()
    except error:
        return
    except Exception as other:
        raise ContractBroken(f"{what}: {type(other).__name__} instead of {error.__name__}: {other}") from other
    raise ContractBroken(f"{what} is taken as if nothing were wrong")


def rows_are_separate(bench: ModuleBench) -> None:
    """Each row of a batch gets what it would get alone."""
    with bench.attached():
        together = bench.generate(bench.pipe)
        for row in range(min(3, len(together))):
            alone = bench.generate(bench.pipe, rows=slice(row, row + 1))
            demand(close(alone, together[row : row + 1]), f"row {row} gets something else alone")


def strength(bench: ModuleBench) -> None:
    """At strength 0 the module gives its own bits, and twice a half is a whole."""
    bare = bench.bare()
    with bench.attached({**bench.case.guard, "strength": 0.0}):
        demand(bool(torch.equal(bench.generate(bench.pipe), bare)), "strength 0 changes what the module gives")
    with bench.attached():
        whole = bench.generate(bench.pipe)
    half = {**bench.case.guard, "strength": 0.5}
    with bench.attached(half, half):
        demand(close(bench.generate(bench.pipe), whole, 1e-3), "two guards of half the strength are not one")


def bf16(bench: ModuleBench) -> None:
    """In bfloat16 the guard acts, in the module's dtype, and comes off."""
    module = copy.deepcopy(bench.pipe).bfloat16()
    bare = bench.generate(module)
    with bench.attached(module=module):
        demand(next(module.parameters()).dtype == torch.bfloat16, "the module is in another dtype")
        demand(not torch.equal(bench.generate(module), bare), "in bfloat16 the guard does nothing")
    demand(bool(torch.equal(bench.generate(module), bare)), "in bfloat16 something is left after detach")


def receipt_is_true(bench: ModuleBench) -> None:
    """It tells of the last call, and of as many changed tensors as there are."""
    own = {name: tensor.clone() for name, tensor in bench.pipe.state_dict().items()}
    with bench.attached() as session:
        demand(not session.receipt.opened, "before any call the receipt says that the guard acted")
        bench.generate(bench.pipe)
        changed = sum(not torch.equal(own[name], tensor) for name, tensor in bench.pipe.state_dict().items())
        told = session.receipt.acts[0]
        demand(told.steps == [0] and session.receipt.steps == 1, "the receipt does not tell of the call")
        demand(told.layers == changed, f"the receipt says {told.layers} tensors, and {changed} are changed")
