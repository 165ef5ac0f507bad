"""Promise 9: what the receipt says was open, how far and on which steps, is what ran; nothing else did.

Recorded independently of the runtime: the kit's own hooks see what goes into a guarded layer and what comes out, take
off what the layer's weight alone gives, and measure how much of the guard's term is in the rest.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.lowrank import Factors, Terms
from ..sessions.session import Session
from .bench import Bench, acted
from .case import NotApplicable, demand

_LAYERS = 3


class _Recorder:
    """How far one layer's term was open, per denoiser call and row: the share that explains the layer's output best.

    shares: by the number of calls that the receipt had told of then. A guard may call the denoiser itself, before or
    behind the call that it changes; such a call has the same number as the step's own that follows, which overwrites it
    """

    def __init__(self, session: Session, layer: Any, factors: Factors):
        self.session, self.layer, self.factors = session, layer, factors
        self.shares: dict[int, Tensor] = {}
        self.calls = 0
        self.handle = layer.register_forward_hook(self)

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        x, weight = args[0].double(), self.layer.weight.double()
        bias = None if self.layer.bias is None else self.layer.bias.double()
        down, up = self.factors.down.double(), self.factors.up.double() * self.factors.scale
        if isinstance(layer, nn.Conv2d):
            where: Any = (layer.stride, layer.padding, layer.dilation)
            plain = F.conv2d(x, weight, bias, *where)
            term = F.conv2d(F.conv2d(x, down, None, *where), up)
        else:
            plain, term = F.linear(x, weight, bias), x @ down.T @ up.T
        rest, term = (output.double() - plain).flatten(1), term.flatten(1)
        self.shares[self.session.receipt.steps] = (rest * term).sum(1) / (term * term).sum(1).clamp_min(1e-30)
        self.calls += 1


def receipt_is_true(bench: Bench) -> None:
    """Gates, strengths and steps of a guard's terms, against what its layers really did."""
    prompts = [bench.case.unrelated[0], bench.case.opens]
    with bench.attached() as session:
        terms = _terms(session)
        own = f"{session.host.denoiser_name}."
        names = [name for name in terms.factors if name.startswith(own)][:: max(1, len(terms.factors) // _LAYERS)]
        recorders = [_Recorder(session, session.layers[name], terms.factors[name]) for name in names]
        calls_itself = session.has("predict_noise") or session.has("condition")
        try:
            demand(bench.attempt(prompts) is not None, "refused")
        finally:
            for recorder in recorders:
                recorder.handle.remove()
        act, steps = session.receipt.acts[0], range(session.receipt.steps)
        # Where each branch is a call of its own, the receipt tells of the rows of one after the other.
        told = torch.tensor(act.gates, dtype=torch.double).split(len(recorders[0].shares[0]))
        for name, recorder in zip(names, recorders):
            demand(
                recorder.shares.keys() >= set(steps) and (calls_itself or recorder.calls == len(steps)),
                f"{name} ran another number of times than the receipt's steps",
            )
            for step, share in ((step, recorder.shares[step]) for step in steps):
                gates = told[step % len(told)]
                said = gates if step in act.steps else torch.zeros_like(gates)
                demand(
                    bool((share - said).abs().max() < 1e-3),
                    f"{name}, step {step}: the receipt says {said.tolist()}, its terms ran at {share.tolist()}",
                )
        demand(
            act.layers == len(terms.factors), f"the receipt says {act.layers} layers, there are {len(terms.factors)}"
        )


def _terms(session: Session) -> Terms:
    hook: Any = getattr(session.methods[0], "cross_attention", None)
    terms = hook(session.layers) if getattr(hook, "conceptguard_impl", None) else None
    if terms is None or not any(name.startswith(f"{session.host.denoiser_name}.") for name in terms.factors):
        raise NotApplicable("the guard has no terms in the denoiser")
    if terms.coupled:
        raise NotApplicable("coupled terms have no gate of their own")
    return terms


def receipt_tells_all(bench: Bench) -> None:
    """Whatever the guard did stands in the receipt, and nothing stands there that it did not do."""
    for prompt in (bench.case.unrelated[0], bench.case.opens):
        bare, calls = bench.unguarded(["watched", prompt], partial(_watched, bench, prompt))
        with bench.attached() as session:
            got = bench.attempt([prompt])
            if got is None:
                continue  # a refusal is told by the exception
            receipt = session.receipt
            act = receipt.acts[0]
            tells = bool(act.steps or act.notes or any(v.flagged for v in receipt.verdicts))
            demand(receipt.steps == calls, f"the receipt says {receipt.steps} steps, {calls} ran")
            if acted(bare, got):
                demand(tells, f"{prompt!r}: the guard acted, and the receipt does not tell; see Method.act")
            else:
                demand(not tells, f"{prompt!r}: the receipt tells of acts, and the picture is the unguarded one")


def _watched(bench: Bench, prompt: str) -> tuple[Tensor, int]:
    """The unguarded picture, and how often the denoiser was called for it; never, where a host has none."""
    if not bench.denoises:
        return bench.generate(bench.pipe, [prompt]), 0
    calls: list[Any] = []
    hook = getattr(bench.pipe, bench.denoiser_name).register_forward_hook(lambda *_: calls.append(0))
    try:
        return bench.generate(bench.pipe, [prompt]), len(calls)
    finally:
        hook.remove()
