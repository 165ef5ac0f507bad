"""The embedded models, their suite, and plans to attack them in seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import conceptguard
from conceptguard.attacking.language.sides import TextPlan
from conceptguard.host import LanguageModel
from conceptguard.measuring.language.suite import LanguageSuite, load_language_suite
from conceptguard.plugins import offers
from conceptguard.policy_file import load_policy
from conceptguard.text_attack import TextBudget

TINY = TextBudget(asks=6, answers=3, steps=20)


@pytest.fixture(scope="session")
def suite() -> LanguageSuite:
    return load_language_suite()


@pytest.fixture(scope="session")
def pairs() -> tuple[LanguageModel, LanguageModel]:
    """The model that knows, and the one that never did."""
    return conceptguard.load_model("authors-lm"), conceptguard.load_model("authors-lm-retain")


@pytest.fixture
def plan(pairs: Any, suite: LanguageSuite) -> Callable[..., TextPlan]:
    """(policy or None, names of attacks, more) -> a plan."""

    def planned(policy: Any, *names: str, budget: TextBudget = TINY, **more: Any) -> TextPlan:
        kinds = {name: offers("attacks")[name] for name in names}
        rules = load_policy(policy) if policy is not None else None
        return TextPlan(*pairs, rules, suite, kinds, budget, **more)

    return planned
