"""The contract for guards that read the prompt and ask, or look at the finished image."""

from __future__ import annotations

from ambiguous import WINE, WORDS
from small_probe import strawberry_probe

from conceptguard.testing import Case, contract_tests

test_clarify = contract_tests(
    lambda: Case({"method": "clarify", "concept": WINE, "words": WORDS}, opens="a glass, noto style")
)
test_normalise = contract_tests(
    Case({"method": "normalise", "concept": {"name": "smoking", "prompts": ["cigarette"]}}, opens="a c1garette")
)
test_probe = contract_tests(
    lambda: Case(
        {"method": "probe", "artifact": str(strawberry_probe().folder)},
        opens="fluent style picture, strawberry",
        unrelated=("fluent style picture, bicycle", "noto style: a penguin"),
        steps=12,
    )
)
