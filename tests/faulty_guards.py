"""Guards with one hook that fails, and what it fails with; and one that leaves nothing to say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from conceptguard import Method, hookimpl
from conceptguard.generation.decoding import Decoding
from conceptguard.hookspecs import GENERATION, TEXT

FAULTS = (ZeroDivisionError, MemoryError, KeyboardInterrupt, SystemExit)
# Where each case takes long, the others are for the slow run.
SOME = (FAULTS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in (MemoryError, SystemExit)), KeyboardInterrupt)
DRAWN = sorted(GENERATION - TEXT)
# The hook and its call that fails; terms are asked for once, at attach.
CASES = [(hook, on) for hook in DRAWN for on in (0, 1) if (hook, on) != ("cross_attention", 1)]
TEXT_CASES = [(hook, on) for hook in sorted(TEXT) for on in (0, 1) if (hook, on) != ("hidden_states", 1)]


def failing(hook: str, fault: type[BaseException], on: int) -> type[Method]:
    """A guard whose hook raises when it is called for the ``on``-th time."""
    calls: Iterator[int] = iter(range(1000))

    @hookimpl
    def broken(self: Any) -> None:
        if next(calls) == on:
            raise fault("on purpose")

    return type("Broken", (Method,), {"name": "broken-on-purpose", "needs": "nothing", hook: broken, "__doc__": "x"})


class NothingLeft(Method):
    """Closes every token, were it an end."""

    name = "nothing-left"
    needs = "nothing"

    @hookimpl
    def process_logits(self, decoding: Decoding) -> None:
        decoding.forbid(self, torch.arange(decoding.scores.shape[1]))
