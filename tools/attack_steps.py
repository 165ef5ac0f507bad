"""What a step of an attack costs under a guard: a prediction for one prompt and the gradient towards its words, over
the same of the bare model.

The two are timed in turn, by the processor's clock; a ratio is the median over rounds. On emoji-sd guards are the
shipped ones; at the size of Stable Diffusion 1.5, with random weights, it is one membrane in all attention blocks.

    OMP_NUM_THREADS=1 python -m tools.attack_steps --json FILE
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

import conceptguard
from conceptguard.benchmarks.overhead import under_membranes
from conceptguard.benchmarks.subjects import membrane, subject
from conceptguard.runtime.frozen import frozen
from conceptguard.runtime.lowrank import LayerIndex
from conceptguard.runtime.once import in_place
from tools.rows import parser_of, write_rows

GUARDS: dict[str, dict[str, Any]] = {
    **{method: {} for method in ("uce", "nullspace", "rece", "few_shot", "advunlearn", "spm", "safree", "trce")},
    "trce, scale 0": {"scale": 0},  # as in the recommended policies; without it, in a step that it steers
}
ROUNDS, ROUNDS_LARGE = 15, 3
SIDE = 32  # of the large one's latents


def rows() -> Iterator[dict[str, Any]]:
    """One a guard, then one at the larger size."""
    pipe = conceptguard.load_model("emoji-sd")
    with _frozen(pipe):
        for called, settings in GUARDS.items():
            method = called.split(",")[0]
            guard = {"method": method, "artifact": f"emoji-sd/{method}/cigarette", **settings}
            with conceptguard.attach(pipe, {"name": method, "guards": [guard]}) as session:
                yield {"method": called, "model": "emoji-sd", **_timed(session, "a cigarette, noto style", 16, ROUNDS)}
    of = subject("sd15", "cpu", torch.float32, text_layers=12)
    with _frozen(of.pipe):
        made = membrane(LayerIndex({"unet": of.pipe.unet}).shapes(), 0)
        with under_membranes(of, of.pipe.unet, [made], time.process_time) as (session, _):
            yield {"method": "spm", "model": "sd15", **_timed(session, "concept 0", SIDE, ROUNDS_LARGE)}


@contextmanager
def _frozen(pipe: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                stack.enter_context(frozen(part))
        stack.enter_context(in_place())
        yield


def _timed(session: conceptguard.Session, prompt: str, side: int, rounds: int) -> dict[str, Any]:
    """Medians of so many rounds, after one that counts not. Raises RuntimeError where no gate opens."""
    host = session.host
    table, ids = host.encoders()[0].vocabulary.float(), list(host.tokens([prompt])[0])
    latents = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))

    def step(guarded: bool) -> float:
        vectors = table[ids].clone().requires_grad_()
        begin = time.process_time()
        said = host.predict(prompt, latents, 500, 12, vectors, guarded=guarded)
        torch.autograd.grad(said.square().mean(), vectors)
        return time.process_time() - begin

    step(True), step(False)
    if not any(any(act.gates) for act in session.receipt.acts):
        raise RuntimeError(f"no gate of {session.policy.name} opens for '{prompt}': nothing would be timed")
    times = [(step(True), step(False)) for _ in range(rounds)]
    return {
        "ms": round(1000 * statistics.median(mine for mine, _ in times), 1),
        "ms_bare": round(1000 * statistics.median(bare for _, bare in times), 1),
        "ratio_bare": round(statistics.median(mine / bare for mine, bare in times), 3), "rounds": rounds,
    }  # fmt: skip


if __name__ == "__main__":
    write_rows("attack_steps", rows(), parser_of(__doc__).parse_args().json)
