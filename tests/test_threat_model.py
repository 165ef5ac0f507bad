"""The threat model claims nothing without a test: each row of its tables names one that is there."""

from __future__ import annotations

import re
from functools import cache

import pytest
from paths import ROOT

PAGE = (ROOT / "docs" / "threat-model.md").read_text("utf-8")
CLAIMS = PAGE[PAGE.index("## Claims and their tests") : PAGE.index("## Report a gap")]
ROWS = re.findall(r"^\| (?!claim |-)(.+?) \| (.*?) \|$", CLAIMS, re.MULTILINE)


@cache
def text_of(file: str) -> str:
    path = ROOT / file
    return path.read_text("utf-8") if path.is_file() else ""


def missing(told: str) -> bool:
    """Whether a row names no test, or one that is not there."""
    named = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", told)
    return named is None or f"\ndef {named[2]}(" not in text_of(named[1])


@pytest.mark.parametrize(("claim", "test"), ROWS, ids=[claim for claim, _ in ROWS])
def test_a_claim_has_its_test(claim: str, test: str) -> None:
    assert not missing(test), f"{claim}: {test} is not there"


def test_every_part_that_holds_something_has_claims() -> None:
    parts = re.findall(r"^### Tests of: (.+)$", CLAIMS, re.MULTILINE)
    told = set(re.findall(r"^##+ (.+)$", PAGE, re.MULTILINE))
    assert set(parts) <= told and {"diffusers", "ComfyUI", "Language models", "Files"} <= set(parts)
    for part in parts:
        rows = CLAIMS.split(f"### Tests of: {part}\n")[1].split("###")[0]
        assert rows.count("::test_") >= 5, part
    held = re.findall(r"^### (.+)\n\n(?:.+\n)*?Held", PAGE, re.MULTILINE)
    assert set(held) <= set(parts), "a host that holds something without a claim here"


@pytest.mark.parametrize(
    "wrong", ["", "`tests/test_docs.py`", "`tests/gone.py::test_x`", "`tests/test_docs.py::test_gone`"]
)
def test_a_claim_without_one_is_seen(wrong: str) -> None:
    assert missing(wrong)
