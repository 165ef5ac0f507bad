"""Promise 7: the host's own terms hold: dtype, other LoRAs, CPU offload, torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .bench import Bench, acted, close, leaves_alone, needs
from .case import demand


def keeps_working(bench: Bench, adapt: Callable[[], Any], when: str) -> torch.Tensor | None:
    """On such a pipeline too, unrelated prompts are untouched and the guard acts, without NaN."""
    pipe, bare, unrelated = bench.adapted(when, adapt)
    with bench.attached(pipe=pipe):
        leaves_alone(bench, pipe, unrelated, when)
        got = bench.attempt([bench.case.opens], pipe=pipe)
    demand(got is None or bool(got.isfinite().all()), f"{when}: the picture is not finite")
    demand(acted(bare, got), f"{when}: the guard does not act")
    return got


def bf16(bench: Bench) -> None:
    """In bfloat16."""
    keeps_working(bench, partial(bench.copied, torch.bfloat16), "in bf16")


def fp16(bench: Bench) -> None:
    """In float16."""
    keeps_working(bench, partial(bench.copied, torch.float16), "in fp16")


def lora_beside(bench: Bench) -> None:
    """A user's own LoRA, loaded with peft before or after attaching, gives the same picture under the guard."""
    config = needs("peft").LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)

    def load(pipe: Any) -> Any:
        torch.manual_seed(0)  # peft draws the factors itself
        denoiser = getattr(pipe, bench.denoiser_name)
        denoiser.add_adapter(config)
        denoiser.set_adapters("default", 0.1)  # random factors at full weight leave nothing for a guard to see
        return pipe

    before = keeps_working(bench, lambda: load(bench.copied()), "beside a LoRA")
    pipe = bench.copied()
    with bench.attached(pipe=pipe):
        load(pipe)
        after = bench.attempt([bench.case.opens], pipe=pipe)
    demand(close(before, after), "a LoRA loaded after attaching gives another picture than one loaded before")


def offloaded(bench: Bench) -> None:
    """With the denoiser's weights on the device only while they are used."""
    accelerate = needs("accelerate")

    def offload() -> Any:
        pipe = bench.copied()
        accelerate.cpu_offload(getattr(pipe, bench.denoiser_name), execution_device=bench.pipe._execution_device)
        return pipe

    at_home = bench.alone(bench.case.opens)
    demand(close(keeps_working(bench, offload, "offloaded"), at_home), "offloaded, the guard gives another picture")


def compiled(bench: Bench) -> None:
    """With a compiled denoiser: the eager picture, the bare graph where nothing opens, and one more where any does."""
    from torch._dynamo.utils import counters

    eager = bench.alone(bench.case.opens)
    pipe = bench.copied()
    torch._dynamo.reset()
    getattr(pipe, bench.denoiser_name).compile()
    unrelated = bench.generate(pipe, bench.case.unrelated[:1])
    with bench.attached(pipe=pipe):
        leaves_alone(bench, pipe, unrelated, "compiled")
        bench.attempt([bench.case.opens], pipe=pipe)
        counters.clear()
        leaves_alone(bench, pipe, unrelated, "compiled, after gates opened")
        got = bench.attempt([bench.case.opens], pipe=pipe)
        frames = counters["frames"]["total"]
    demand(close(got, eager, 1e-3), "compiled, the guard gives another picture")
    demand(frames == 0, f"opening and closing gates compiled {frames} graphs")
