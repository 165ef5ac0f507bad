"""What a guard costs per image: whole pipeline calls, bare and guarded, on a prompt that opens it and on another one.

Beside it, pieces of a method's own work against the way published code does them, on the same tensors.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import plugins
from ..policy import Policy
from ..sessions.attach import attach

STEPS = 25
Row = dict[str, Any]


def measure(
    pipe: Any,
    policy: Policy,
    prompts: Sequence[str],
    repeats: int,
    tick: Callable[[int], None] = lambda k: None,
) -> list[Row]:
    """One row per prompt: the median ratio of ``repeats`` rounds, in which bare and guarded take turns.

    Attaching is not counted; reading the prompt is. open: how many guards opened; acted: in how many calls of the
    denoiser they did something; looks: how many verdicts there were. Images are decoded only where a guard looks at
    them, bare ones then too.
    """
    rows = []
    with attach(pipe, policy) as session:
        kind = "pt" if session.has("check_image") else "latent"
        pipe(prompts[0], num_inference_steps=1, output_type=kind)  # whatever is done only once
    for text in prompts:
        bare, guarded = [], []
        for i in range(repeats):
            if i % 2 == 0:  # neither always goes first
                bare.append(_image(pipe, text, STEPS, kind))
            with attach(pipe, policy) as session:
                guarded.append(_image(pipe, text, STEPS, kind))
                receipt, acts = session.receipt, session.receipt.acts
            if i % 2:
                bare.append(_image(pipe, text, STEPS, kind))
            tick(1)
        ratio = statistics.median(g / b for g, b in zip(guarded, bare))
        ms, ms_bare = (1000 * statistics.median(times) for times in (guarded, bare))
        rows.append({
            "n": len(acts), "open": sum(any(act.gates) for act in acts),
            "acted": len({step for act in acts for step in act.steps}), "looks": len(receipt.verdicts),
            "ratio_bare": round(ratio, 4),
            "ms": round(ms, 3), "ms_bare": round(ms_bare, 3), "steps": STEPS, "prompt": text,
        })  # fmt: skip
    return rows


def against_peers(method: str, repeats: int, tick: Callable[[int], None] = lambda k: None) -> list[Row]:
    """One row for each piece of work that a method does another way than published code."""
    rows = []
    for name, (ours, theirs) in plugins.method(method).peers().items():
        difference = float((ours() - theirs()).abs().max())  # and warm
        times = [(_timed(ours), _timed(theirs)) for _ in range(repeats)]
        tick(1)
        rows.append({
            "peer": name, "ratio_peer": round(statistics.median(a / b for a, b in times), 4),
            "ms": round(1000 * statistics.median(a for a, _ in times), 3),
            "ms_peer": round(1000 * statistics.median(b for _, b in times), 3), "difference": difference,
        })  # fmt: skip
    return rows


def _image(pipe: Any, text: str, steps: int, kind: str) -> float:
    def run() -> None:
        pipe(text, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), output_type=kind)
        if pipe._execution_device.type == "cuda":
            torch.cuda.synchronize()

    return _timed(run)


def _timed(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
