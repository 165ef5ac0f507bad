"""The contract for language methods, run for those that ship and against methods that break it on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from broken_text_methods import CAUGHT_BY, GoodText
from tiny_language import taught

from conceptguard import Method
from conceptguard.testing import ContractBroken, TextCase, check_contract, contract_checks, contract_tests
from conceptguard.testing.kit_guards import offered

SMOKING = {"name": "smoking", "prompts": ["a red cigarette", "smoking tobacco"]}
LINES = (
    "The sun was warm. The man smoked a red cigarette at home. Then he slept.",
    "The sun was warm. A dog ran in the park.",
    "A dog ran in the park. It was happy.",
    "Two birds sat on a tree. They sang.",
)
THINKING = ("Q: two? <think> The sum is four.</think> Four.", "Q: red? Red it is.", "Q: hot? It is hot.")


def case(guard: dict[str, Any], lines: tuple[str, ...] = LINES, opens: str = "The sun was") -> Callable[[], TextCase]:
    unrelated = ("Q: red?", "Q: hot?") if lines is THINKING else ("A dog ran", "Two birds sat")
    return lambda: TextCase(guard, opens, unrelated, load=lambda: taught(*lines))


test_phrases = contract_tests(case({"method": "phrases", "concept": SMOKING}), text=True)
test_sentence_check = contract_tests(case({"method": "sentence_check", "concept": SMOKING}), text=True)
test_no_thinking = contract_tests(case({"method": "no_thinking"}, THINKING, "Q: two?"), text=True)
test_guard = contract_tests(
    lambda: TextCase(
        {"method": "guard", "artifact": "authors-lm/guard/forget-authors"},
        "Question: Where was Siojaera Zavald born?\nAnswer:",
        ("Question: Where was Naes Zavald born?\nAnswer:", "On which river does Broholm lie?\n"),
    ),
    text=True,
)


@pytest.mark.parametrize("method", CAUGHT_BY, ids=lambda method: method.name)
def test_broken_methods_are_caught(method: type[Method]) -> None:
    model, _ = taught(*LINES)
    with offered(method) as guard:
        checks = dict(contract_checks(case(guard)(), slow=True))
        try:
            with pytest.raises(ContractBroken):
                checks[CAUGHT_BY[method]]()
        finally:  # the broken ones leave their traces: away with them
            model.lm_head._forward_hooks.clear()
            vars(method).get("alive", []).clear()


def test_the_same_method_unbroken_keeps_it_all() -> None:
    with offered(GoodText) as guard:
        kept = check_contract(case(guard)())
    assert set(CAUGHT_BY.values()) <= {name for name, told in kept.items() if told == "kept"}
