"""Tests of many generated cases: a few thousand each time, a hundred thousand in the slow run."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from conceptguard.errors import ConceptGuardError

# No name that Windows keeps for a device: those are refused, as they are to be.
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,8}[a-z0-9])?", fullmatch=True).filter(lambda name: name not in DEVICES)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


def fuzz(quick: int, slow: int, **strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a test of a check: so many examples each time, the same ones; so many new ones in the slow run."""

    def test_of(check: Callable[..., None]) -> Callable[..., None]:
        marks = [pytest.mark.slow, pytest.mark.timeout(14_400)]

        @pytest.mark.parametrize("examples", [quick, pytest.param(slow, marks=marks)])
        def test(examples: int) -> None:
            tried, told = 0, time.monotonic()

            @functools.wraps(check)
            def counted(**case: Any) -> None:
                nonlocal tried, told
                tried += 1
                if time.monotonic() - told > 1:
                    told = time.monotonic()
                    report(test.__name__, tried, time.process_time() - begin)
                check(**case)

            chosen = settings(
                max_examples=examples, derandomize=examples == quick, deadline=None, database=None,
                suppress_health_check=list(HealthCheck), phases=[Phase.generate],
            )  # fmt: skip
            begin, held = time.process_time(), False
            try:
                chosen(given(**strategies)(counted))()
                held = True
            finally:
                report(test.__name__, tried, time.process_time() - begin, held)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return test_of


def report(name: str, cases: int, seconds: float, held: bool | None = None) -> None:
    """A line of JSON about a test, where somebody asked for them; held: None as long as it runs."""
    if path := os.environ.get("CONCEPTGUARD_FUZZED"):
        with open(path, "a") as file:
            file.write(json.dumps({"test": name, "cases": cases, "seconds": round(seconds, 1), "held": held}) + "\n")


def one_line(cause: ConceptGuardError) -> None:
    """What every error is: a line that somebody can read."""
    text = str(cause)
    assert text.strip() and "\n" not in text and len(text) < 3000, text[:300]


def spoilt(text: str, edits: list[tuple[int, int, str]]) -> str:
    """A text with pieces taken out and put in: (where, how many letters go, what comes)."""
    for where, gone, new in edits:
        at = where % (len(text) + 1)
        text = text[:at] + new + text[at + gone :]
    return text


SCRAPS = st.sampled_from(
    ["&a ", "*a", "!!python/name:os.system ", "\n---\n", "<<: ", "\x00", "[" * 60, "{", "}", '"', "\t", "schema: 9\n",
     '"schema": 9,', "? ", "...\n", "\u2028", "9" * 400, "NaN", "1e999", "- ", ": ", "\n", "guards:", "\ud7ff", "#"]
) | st.text(max_size=4)  # fmt: skip
EDITS = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 30), SCRAPS), min_size=1, max_size=3)
