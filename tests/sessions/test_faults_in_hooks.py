"""Exceptions and interrupts in every hook: no picture, no text, nothing left open, and after detach no trace."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from faulty_guards import CASES, FAULTS, SOME, TEXT_CASES, failing
from text_guards import given
from tiny import generate
from tiny_language import taught, tiny_llama, tokenizer
from tiny_modular import draw, modular_sdxl

import conceptguard
from conceptguard.errors import ConceptGuardError
from conceptguard.testing.kit_guards import offered
from conceptguard.testing.traces import differences, snapshot


@cache
def speaker(hook: str) -> Any:
    """A language model and its tokenizer; where sentences are looked at, one that knows how to end them."""
    if hook == "check_sentence":
        return taught("The sun was warm. He ran.")
    return tiny_llama(tokenizer()), tokenizer()


def whole_or_none(pipe: Any, drawn: Callable[[Any], Any], hook: str, on: int, fault: type[BaseException]) -> None:
    """A fault in a hook at attach or in the first of three calls: no picture of that call, and no trace."""
    bare = drawn(pipe)
    before = snapshot(pipe)  # a first call leaves attributes of the pipeline's own
    raised = False
    with offered(failing(hook, fault, on)) as guard:
        try:
            with conceptguard.attach(pipe, {"guards": [guard]}):
                for _ in range(3):
                    try:
                        picture = drawn(pipe)
                    except (ConceptGuardError, fault):
                        raised = True
                        continue
                    assert torch.equal(picture, bare), "what leaves after a fault is what would have left without"
        except (ConceptGuardError, fault):  # at attach
            raised = True
    assert raised, "the hook is asked, and a fault in it is told"
    assert not differences(before, snapshot(pipe))
    assert torch.equal(drawn(pipe), bare)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("hook", "on"), CASES)
def test_a_picture_is_whole_or_none(hook: str, on: int, fault: type[BaseException], tiny: Any) -> None:
    whole_or_none(tiny, lambda pipe: generate(pipe, "a red apple", output_type="pt"), hook, on, fault)


@pytest.mark.parametrize("fault", SOME)
@pytest.mark.parametrize(("hook", "on"), CASES)
def test_a_modular_picture_is_whole_or_none(hook: str, on: int, fault: type[BaseException], tokenizer: Any) -> None:
    whole_or_none(modular_sdxl(tokenizer), lambda p: draw(p, "a red apple", output_type="pt"), hook, on, fault)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("hook", "on"), TEXT_CASES)
def test_a_text_is_whole_or_none(hook: str, on: int, fault: type[BaseException]) -> None:
    model, tok = speaker(hook)
    asked = given(tok, "The sun was")
    more = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": tok.eos_token_id}
    bare, forward, raised = model.generate(**asked, **more), type(model).forward, False
    with offered(failing(hook, fault, on)) as guard:
        try:
            with conceptguard.attach((model, tok), {"guards": [guard]}):
                for _ in range(3):
                    try:
                        text = model.generate(**asked, **more)
                    except (ConceptGuardError, fault):
                        raised = True
                        continue
                    assert torch.equal(text, bare)
        except (ConceptGuardError, fault):  # at attach
            raised = True
    assert raised and type(model).forward is forward and "forward" not in vars(model)
    assert torch.equal(model.generate(**asked, **more), bare) and model(asked["input_ids"]).logits is not None
