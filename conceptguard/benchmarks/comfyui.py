"""What guards cost a prompt in ComfyUI: a whole sampling bare, guarded, and with the same LoRA by ComfyUI's own means.

Variants are timed in turn, round after round, each after a step that brings the model into its state, so that loading
counts for none; a ratio is the median over rounds of the ratio within a round. Peers:

add_patches   the one open membrane as a LoRA that ComfyUI adds to the weights: nothing a step, one for all rows
weight hooks  the same as a hook on the conditioning, which weights are changed for in every step
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from .. import plugins
from ..hosts.comfyui.core import lora_peers, sample
from ..sessions.attach import attach
from .subjects import Membranes, membrane, subject

Row = dict[str, Any]
OPEN, SHUT = "concept 0", "a red apple, noto style"
SIZES = {"emoji-sd": 16, "sd15": 32}  # of the latents; Stable Diffusion 1.5's own 64 take minutes a step on a CPU


@torch.inference_mode()
def measure(
    size: str,
    n: int,
    steps: int,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    tick: Callable[[int], None] = lambda k: None,
) -> list[Row]:
    """Rows for ``n`` membranes: none open, one open, and the peers. ``import_core`` comes first.

    size: ``emoji-sd``, or ``sd15``: a UNet of Stable Diffusion 1.5's size with random weights, at 32 x 32 latents
    difference: of the latents, by their largest value, from what the weight hooks give, which act on the same rows
    """
    parts, side = _parts(size), SIZES[size]
    conds = {text: parts.clip.encode_from_tokens_scheduled(parts.clip.tokenize(text)) for text in (OPEN, SHUT, "")}
    manager = plugins.plugin_manager()
    manager.register(Membranes, name=Membranes.name)
    try:
        shapes = attach((parts.model, parts.clip), {}).layers.shapes()
        Membranes.made = [membrane(shapes, i) for i in range(n)]
        names = [f"concept {i}" for i in range(n)]
        guards = [{"method": Membranes.name, "concept": {"name": name, "prompts": [name]}} for name in names]
        begin = time.perf_counter()
        session = attach((parts.model, parts.clip), {"name": "bench", "guards": guards})
        attached = time.perf_counter() - begin
        host: Any = session.host
        host.candidates = lambda: [OPEN, SHUT, ""]
        guarded = host.guarded()
        variants = {
            "bare": (parts.model, conds[SHUT]), "bare again": (parts.model, conds[SHUT]),
            "none open": (guarded, conds[SHUT]), "one open": (guarded, conds[OPEN]),
            **lora_peers(parts.model, conds[OPEN], Membranes.made[0]),
        }  # fmt: skip
        times: dict[str, list[float]] = {name: [] for name in variants}
        images = {}
        for _ in range(repeats):
            for name, (model, positive) in variants.items():
                sample(model, positive, conds[""], 1, side)
                begin = clock()
                images[name] = sample(model, positive, conds[""], steps, side)
                times[name].append(clock() - begin)
            tick(1)
        opened = [act.guard for act in session.receipt.opened]
    finally:
        Membranes.made = []
        manager.unregister(name=Membranes.name)
    assert opened in ([], [f"{Membranes.name} {OPEN}"]), opened
    difference = float((images["one open"] - images["weight hooks"]).abs().max() / images["one open"].abs().max())
    common = {"n": n, "steps": steps, "attach_seconds": round(attached, 2)}
    return [
        {"variant": name, **common, "ratio_bare": _ratio(times[name], times["bare"]),
         "ms": round(1000 * statistics.median(times[name]), 1),
         "difference": difference if name == "one open" else None}
        for name in variants
    ]  # fmt: skip


def _parts(size: str) -> Any:
    """A model as ComfyUI has it."""
    from ..hosts.comfyui.load import load_parts

    if size == "emoji-sd":
        return load_parts(size)
    with tempfile.TemporaryDirectory() as folder:
        subject(size, "cpu", torch.float32).pipe.save_pretrained(folder)
        return load_parts(folder)


def _ratio(mine: list[float], theirs: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(mine, theirs)), 4)
