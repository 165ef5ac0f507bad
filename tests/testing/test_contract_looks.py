"""The contract for guards that read the prompt and ask, or look at the finished image."""

from __future__ import annotations

import tempfile
from functools import cache
from typing import Any

from ambiguous import WINE, WORDS

from conceptguard.plugins import host_for, method
from conceptguard.testing import Case, contract_tests, embedded_model

FOLDER = tempfile.TemporaryDirectory()  # goes with the process


@cache
def _probe() -> Any:
    """Strawberries against bicycles and penguins, from few pictures."""
    return method("probe").make(
        host_for(embedded_model()), {"name": "strawberry", "prompts": ["strawberry"]}, FOLDER.name,
        preserve=["bicycle", "penguin"], templates=["{}, fluent style", "{}, noto style"], images=24, draw_steps=8,
        steps=80, progress=False,
    )  # fmt: skip


test_clarify = contract_tests(
    lambda: Case({"method": "clarify", "concept": WINE, "words": WORDS}, opens="a glass, noto style")
)
test_probe = contract_tests(
    lambda: Case(
        {"method": "probe", "artifact": str(_probe().folder)},
        opens="fluent style picture, strawberry",
        unrelated=("fluent style picture, bicycle", "noto style: a penguin"),
        steps=8,
    )
)
