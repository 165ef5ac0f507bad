"""What guards cost per denoising step: the same UNet bare, guarded, and under other ways to add the same terms.

All variants share one set of weights and are timed in turn, round after round (A B C A B C ...), so that whatever else
the machine does falls on all alike; a ratio is the median over rounds of the ratio within a round. Every variant gets
the same inputs: two rows (unconditional, conditional), terms open on both. Peers:

peft      the membranes as LoRA adapters, the open ones active (inactive ones cost peft nothing per step)
official  the SPM repository's way: one rank-1 adapter per layer whose weights are the gate-weighted sum of all
          membranes, rewritten for every prompt; its time per step is the step's plus the rewriting's over 25 steps
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import plugins
from ..runtime.lowrank import Factors, LayerIndex
from ..sessions.attach import attach
from ..sessions.session import Session
from .subjects import Membranes, Subject, membrane

STEPS_PER_PROMPT = 25
MOST_PEFT = 50  # adapters; peft's attach grows with every one

Row = dict[str, Any]
Tick = Callable[[int], None]
Clock = Callable[[], float]


@dataclass
class Variant:
    """One way to run a step. before: run untimed, to put it into the state that is timed; extra: seconds a step."""

    name: str
    open: int
    unet: Any
    before: Callable[[], None] = lambda: None
    extra: float = 0.0
    times: list[float] = field(default_factory=list)
    output: Tensor | None = None


def measure(
    of: Subject,
    n: int,
    opens: Sequence[int],
    repeats: int,
    compiled: bool = False,
    clock: Clock = time.perf_counter,
    tick: Tick = lambda k: None,
) -> list[Row]:
    """Rows for ``n`` membranes attached and each number of open ones, one row per peer."""
    with ExitStack() as stack:
        bare, guarded = of.unet(), of.unet()
        if compiled:
            bare.compile()
            guarded.compile()
        made = [membrane(LayerIndex({"unet": bare}).shapes(), i) for i in range(n)]
        session, attach_seconds = stack.enter_context(under_membranes(of, guarded, made, clock))
        variants = [Variant("bare", 0, bare)]
        _step(guarded, of)  # reads the conditions; from now on the benchmark says which gates are open
        for k in opens:
            variants.append(Variant("guarded", k, guarded, _opener(session, n, k)))
        if not compiled:
            positive = [k for k in opens if k]
            variants += _peft(of, made, positive) + _official(of, made, positive, clock)
        for _ in range(repeats):
            for variant in variants:
                _time(variant, of, clock)
            tick(1)
        gates_ms = 1000 * _median_time(
            lambda: session._gate_banks["unet"](of.inputs["encoder_hidden_states"], [None] * 2), clock
        )
        common = {"n": n, "attach_seconds": round(attach_seconds, 3), "bytes": session.banks.nbytes,
                  "gates_ms": round(gates_ms, 3), "compiled": compiled}  # fmt: skip
        return _rows(variants, common)


def _rows(variants: Sequence[Variant], common: Row) -> list[Row]:
    bare = variants[0]
    rows = []
    for mine in (v for v in variants if v.name == "guarded"):
        head = {"n": common["n"], "open": mine.open, "ratio_bare": _ratio(mine, bare)}
        figures = {"ms": _ms(mine), "ms_bare": _ms(bare)}
        peers = [v for v in variants if v.name in ("peft", "official") and v.open == mine.open]
        against_all: list[Variant | None] = [*peers] or [None]
        for peer in against_all:
            against = {"ratio_peer": None, "peer": ""} if peer is None else {
                "ratio_peer": _ratio(mine, peer), "peer": peer.name, "peer_ratio_bare": _ratio(peer, bare),
                "difference": _difference(mine, peer),
            }  # fmt: skip
            rows.append({**head, **against, **figures, **common})
    return rows


@contextmanager
def under_membranes(
    of: Subject, unet: nn.Module, made: list[dict[str, Factors]], clock: Clock
) -> Iterator[tuple[Session, float]]:
    """A session with the membranes on a pipeline around ``unet``, and the seconds that attaching took."""
    manager = plugins.plugin_manager()
    manager.register(Membranes, name=Membranes.name)
    Membranes.made = made
    try:
        guards = [
            {"method": Membranes.name, "concept": {"name": f"concept {i}", "prompts": [f"concept {i}"]}}
            for i in range(len(made))
        ]
        pipe = of.with_unet(unet)
        policy = {"name": "bench", "guards": guards}
        begin = clock()
        with attach(pipe, policy) as session:
            yield session, clock() - begin
    finally:
        Membranes.made = []
        manager.unregister(name=Membranes.name)


def _opener(session: Session, n: int, k: int) -> Callable[[], None]:
    gates = torch.zeros(2, n)
    gates[:, :k] = 1
    return lambda: session.banks.set("unet", gates)


def _peft(of: Subject, made: Sequence[Mapping[str, Factors]], opens: Sequence[int]) -> list[Variant]:
    """None without peft, and none where it would be given more adapters than it is made for."""
    if len(made) > MOST_PEFT:
        return []
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        return []
    unet = of.unet()
    targets = [name.removeprefix("unet.") for name in made[0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft wonders about a second adapter
        for i in range(len(made)):
            config = LoraConfig(r=1, lora_alpha=1, target_modules=targets)
            inject_adapter_in_model(config, unet, adapter_name=f"concept {i}")
    unet.requires_grad_(False)
    adapted = {name: module for name, module in unet.named_modules() if hasattr(module, "lora_A")}
    for i, factors in enumerate(made):
        for name, (down, up, _) in factors.items():
            module = adapted[name.removeprefix("unet.")]
            module.lora_A[f"concept {i}"].weight.copy_(down)
            module.lora_B[f"concept {i}"].weight.copy_(up)

    def activate(k: int) -> None:
        for module in adapted.values():
            module.set_adapter([f"concept {i}" for i in range(k)])

    return [Variant("peft", k, unet, partial(activate, k)) for k in opens]


def _official(of: Subject, made: Sequence[Mapping[str, Factors]], opens: Sequence[int], clock: Clock) -> list[Variant]:
    """One module tree for each number of open gates, so that only the rewriting that is counted takes time."""
    found = []
    for k in opens:
        unet = of.unet()
        home = next(unet.parameters())
        names = {name: unet.get_submodule(name.removeprefix("unet.")) for name in made[0]}
        added = {name: _Added(layer, made[0][name], home) for name, layer in names.items()}
        rewriting = _median_time(partial(_rewrite, added, made, [1.0] * k + [0.0] * (len(made) - k)), clock, repeats=1)
        found.append(Variant("official", k, unet, extra=rewriting / STEPS_PER_PROMPT))
    return found


def _rewrite(added: Mapping[str, _Added], factors: Sequence[Mapping[str, Factors]], gates: Sequence[float]) -> None:
    """Every tensor becomes the sum of all membranes' tensors, each times its gate."""
    for name, layer in added.items():
        layer.down.copy_(sum(f[name].down * g for f, g in zip(factors, gates)))  # type: ignore[arg-type]
        layer.up.copy_(sum(f[name].up * g for f, g in zip(factors, gates)))  # type: ignore[arg-type]


class _Added:
    """SPMLayer of the authors' repository: the layer's own forward, plus up(down(x))."""

    def __init__(self, layer: nn.Module, factors: Factors, home: Tensor):
        self.down = factors.down.clone().to(home)
        self.up = factors.up.clone().to(home)
        own = layer.forward
        if isinstance(layer, nn.Conv2d):
            self.forward = lambda x, *_: (
                own(x) + F.conv2d(F.conv2d(x, self.down, None, layer.stride, layer.padding), self.up)
            )
        else:
            self.forward = lambda x, *_: own(x) + F.linear(F.linear(x, self.down), self.up)
        layer.forward = self.forward  # type: ignore[method-assign]


@torch.no_grad()
def _step(unet: Any, of: Subject) -> Tensor:
    return unet(**of.inputs, return_dict=False)[0]  # type: ignore[no-any-return]


def _time(variant: Variant, of: Subject, clock: Clock) -> None:
    variant.before()
    if not variant.times:
        variant.output = _step(variant.unet, of)  # the first run of a variant warms up and is not counted
    _wait(of)
    begin = clock()
    _step(variant.unet, of)
    _wait(of)
    variant.times.append(clock() - begin + variant.extra)


def _wait(of: Subject) -> None:
    if of.inputs["sample"].device.type == "cuda":
        torch.cuda.synchronize()


def _median_time(run: Callable[[], Any], clock: Clock, repeats: int = 3) -> float:
    times = []
    for _ in range(repeats + 1):
        begin = clock()
        run()
        times.append(clock() - begin)
    return statistics.median(times[1:])


def _ratio(a: Variant, b: Variant) -> float:
    return round(statistics.median(x / y for x, y in zip(a.times, b.times)), 4)


def _ms(variant: Variant) -> float:
    return round(1000 * statistics.median(variant.times), 3)


def _difference(a: Variant, b: Variant) -> float | None:
    """Largest difference of the outputs, where both compute the same sum (the official way has cross terms)."""
    if a.output is None or b.output is None or (b.name == "official" and a.open > 1):
        return None
    return float((a.output - b.output).abs().max())
