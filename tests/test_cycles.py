"""Attach and detach, thousands of times: everything as before, and nothing grows."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
from tiny import generate

import conceptguard
from conceptguard.testing.kit_guards import Beside, offered
from conceptguard.testing.traces import differences, snapshot


@pytest.mark.parametrize("cycles", [200, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_cycles_leave_nothing(cycles: int, tiny: Any) -> None:
    generate(tiny, "a red apple")

    def cycle(count: int) -> None:
        for _ in range(count):
            with conceptguard.attach(tiny, policy):
                pass
        gc.collect()

    with offered(Beside) as guard:
        policy = conceptguard.load_policy({"guards": [guard]})
        cycle(20)
        before, objects = snapshot(tiny), len(gc.get_objects())
        tracemalloc.start()
        try:
            cycle(cycles // 2)
            half = tracemalloc.get_traced_memory()[0]
            cycle(cycles // 2)
            grown = tracemalloc.get_traced_memory()[0] - half
        finally:
            tracemalloc.stop()
        assert not differences(before, snapshot(tiny))
        assert len(gc.get_objects()) - objects < 100
        assert grown < 50 * cycles + 20_000, f"{grown:,} bytes in {cycles // 2} cycles"
