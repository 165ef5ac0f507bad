"""Exceptions and interrupts in every hook: no picture, no text, nothing left open, and after detach no trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from text_guards import given
from tiny import generate
from tiny_language import tiny_llama, tokenizer

import conceptguard
from conceptguard import Method, hookimpl
from conceptguard.errors import ConceptGuardError
from conceptguard.hookspecs import GENERATION, TEXT
from conceptguard.testing.kit_guards import offered
from conceptguard.testing.traces import differences, snapshot

FAULTS = (ZeroDivisionError, MemoryError, KeyboardInterrupt, SystemExit)
DRAWN = sorted(GENERATION - TEXT)


def failing(hook: str, fault: type[BaseException], on: int) -> type[Method]:
    """A guard whose hook raises when it is called for the ``on``-th time."""
    calls: Iterator[int] = iter(range(1000))

    @hookimpl
    def broken(self: Any) -> None:
        if next(calls) == on:
            raise fault("on purpose")

    return type("Broken", (Method,), {"name": "broken-on-purpose", "needs": "nothing", hook: broken, "__doc__": "x"})


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("on", [0, 1])
@pytest.mark.parametrize("hook", DRAWN)
def test_a_picture_is_whole_or_none(hook: str, on: int, fault: type[BaseException], tiny: Any) -> None:
    bare = generate(tiny, "a red apple", output_type="pt")
    before = snapshot(tiny)  # a first call leaves attributes of the pipeline's own
    raised = False
    with offered(failing(hook, fault, on)) as guard:
        try:
            with conceptguard.attach(tiny, {"guards": [guard]}):
                for _ in range(3):
                    try:
                        picture = generate(tiny, "a red apple", output_type="pt")
                    except (ConceptGuardError, fault):
                        raised = True
                        continue
                    assert torch.equal(picture, bare), "what leaves after a fault is what would have left without"
        except (ConceptGuardError, fault):  # at attach
            raised = True
    assert raised or (hook, on) == ("cross_attention", 1), "the hook is asked, and a fault in it is told"
    assert not differences(before, snapshot(tiny))
    assert torch.equal(generate(tiny, "a red apple", output_type="pt"), bare)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("on", [0, 1])
@pytest.mark.parametrize("hook", sorted(TEXT - {"check_sentence"}))
def test_a_text_is_whole_or_none(hook: str, on: int, fault: type[BaseException]) -> None:
    tok = tokenizer()
    model = tiny_llama(tok)
    asked = given(tok, "the sun was warm")
    more = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": tok.eos_token_id}
    bare, forward, raised = model.generate(**asked, **more), type(model).forward, False
    with offered(failing(hook, fault, on)) as guard, conceptguard.attach((model, tok), {"guards": [guard]}):
        for _ in range(3):
            try:
                text = model.generate(**asked, **more)
            except (ConceptGuardError, fault):
                raised = True
                continue
            assert torch.equal(text, bare)
    assert raised and type(model).forward is forward and "forward" not in vars(model)
    assert torch.equal(model.generate(**asked, **more), bare) and model(asked["input_ids"]).logits is not None
