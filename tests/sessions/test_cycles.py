"""Attach and detach, thousands of times: everything as before, and nothing grows."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest
from tiny import generate

import conceptguard
from conceptguard.testing.kit_guards import Beside, offered
from conceptguard.testing.traces import differences, snapshot


@pytest.mark.parametrize("cycles", [200, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_cycles_leave_nothing(cycles: int, tiny: Any) -> None:
    generate(tiny, "a red apple")

    def cycle(count: int) -> tuple[int, int]:
        """Objects and memory blocks after so many cycles."""
        for _ in range(count):
            with conceptguard.attach(tiny, policy):
                pass
        gc.collect()
        return len(gc.get_objects()), sys.getallocatedblocks()

    with offered(Beside) as guard:
        policy = conceptguard.load_policy({"guards": [guard]})
        cycle(20)
        before = snapshot(tiny)
        first, second = cycle(cycles // 2), cycle(cycles // 2)
        assert not differences(before, snapshot(tiny))
    assert second[0] - first[0] < 100, f"{second[0] - first[0]} more objects after {cycles // 2} more cycles"
    assert second[1] - first[1] < 500, f"{second[1] - first[1]} more memory blocks after {cycles // 2} more cycles"
