"""The contract for the guards that need no training."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tiny import clip_tokenizer, tiny_sd

from conceptguard.errors import GuardError
from conceptguard.plugins import host_for, method
from conceptguard.testing import Bench, Case, NotApplicable, contract_checks, contract_tests

_OPENS = "a cigarette"
_CONCEPT = {"name": "cigarette", "prompts": ["a cigarette", "smoking"]}


@cache
def _pipeline() -> Any:
    """One for all cases: checks leave it as it was, or fail."""
    return tiny_sd(clip_tokenizer())


def _case(**guard: Any) -> Case:
    return Case({"concept": _CONCEPT, **guard}, opens=_OPENS, load=_pipeline)


def _apart(**guard: Any) -> Case:
    return replace(_case(**guard), opens="a cigarette and a dog")


# On a random encoder the authors' thresholds mean nothing: any token farther from the concept is a trigger.
_SAFREE = {"method": "safree", "alpha": 0.0, "schedule": False}

test_safree = contract_tests(lambda: _case(**_SAFREE, positions="all"))
test_safree_schedule = contract_tests(lambda: _case(**{**_SAFREE, "schedule": True}, positions="all", t0=-100.0))


@cache
def _autoencoder() -> tuple[Any, Any]:
    """A small one on a random encoder, and the folder that it lives in as long as this module does."""
    home = tempfile.TemporaryDirectory()
    made = method("itd").make(
        host_for(_pipeline()), _CONCEPT, Path(home.name), preserve=["an apple", "a dog", "a house"],
        features=128, k=4, steps=200, progress=False,
    )  # fmt: skip
    return made, home


def _itd_case(**guard: Any) -> Case:
    """Gated by words: on a random encoder the classifier has nothing to tell texts apart by. test_itd has it judged."""
    folder = str(_autoencoder()[0].folder)
    return Case({"method": "itd", "artifact": folder, "classify": False, **guard}, opens=_OPENS, load=_pipeline)


test_itd = contract_tests(_itd_case)
test_itd_of_another_concept = contract_tests(lambda: _itd_case(concept=_CONCEPT))

_GUIDANCE = {
    "sld": {"method": "sld"},
    "negative_guidance": {"method": "negative_guidance"},
    "ant": {"method": "ant"},
    "trce": {"method": "trce", "early": 1.0},
    "safree negative prompt": {"method": "safree", "projection": False, "negative_prompt": True},
}
# A compiled model's skip connections cannot be read, and the guard says so.
_REATTENTION = [
    pytest.param(check, id=what, marks=[pytest.mark.slow] if what == "fp16" else [])
    for what, check in contract_checks(lambda: _case(**_SAFREE, positions="all", reattention=True, s2=0.0), slow=True)
    if what != "compiled"
]


@pytest.mark.parametrize("check", _REATTENTION)
def test_safree_reattention(check: Any) -> None:
    try:
        check()
    except NotApplicable as reason:
        pytest.skip(str(reason))


# They cannot work without classifier-free guidance and say so; the kit's check wants a picture there.
_CHECKS = [
    pytest.param(check, id=f"{name}-{what}", marks=[pytest.mark.slow] if what in ("compiled", "fp16") else [])
    for name, guard in _GUIDANCE.items()
    for what, check in contract_checks(lambda guard=guard: _case(**guard), slow=True)
    if what != "guidance_off"
]


@pytest.mark.parametrize("check", _CHECKS)
def test_guidance(check: Any) -> None:
    try:
        check()
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("guard", _GUIDANCE.values(), ids=_GUIDANCE)
def test_guidance_off_is_an_error_where_the_guard_opens_and_nowhere_else(guard: dict[str, Any]) -> None:
    bench = Bench(_case(**guard))
    bare = bench.bare(["a red apple"], guidance_scale=1.0)
    with bench.attached():
        with pytest.raises(GuardError, match="needs classifier-free guidance"):
            bench.attempt([_OPENS], guidance_scale=1.0)
        assert bench.attempt(["a red apple"], guidance_scale=1.0).equal(bare)


# A-STAR needs something to keep the concept from; a random encoder's attention is flat, so the latents go far.
_ASTAR = {"method": "astar", "scale": 8.0}
test_astar = contract_tests(lambda: _apart(**_ASTAR))
test_magicmix = contract_tests(lambda: replace(_case(method="magicmix"), steps=6))
