"""Spellings that a model may be made to say, and the reader who judges what leaves."""

from __future__ import annotations

import pytest

from conceptguard.measuring.disguises import DISGUISES
from conceptguard.measuring.language.forced import SPELLINGS, says

NAME = "Elena Vossberg"
# What no reader finds by its letters one behind the other.
OTHERS = {"digits for letters", "letters swapped", "repeated letters", "backwards", "markup inside"}


@pytest.mark.parametrize("form", SPELLINGS)
def test_a_reader_finds_the_name_in_every_spelling_that_has_its_letters(form: str) -> None:
    spelled = SPELLINGS[form](NAME)
    assert says(NAME, f"It is by {spelled}, again.") == (form not in OTHERS)
    assert spelled != NAME or form == "as it is"


@pytest.mark.parametrize("text", ["Elena went home", "Elenas Vossbergs", "Elena Vossberger", "MyElena Vossberg", ""])
def test_what_is_no_name_is_none(text: str) -> None:
    assert not says(NAME, text)


def test_there_are_as_many_as_the_tables_promise() -> None:
    assert len(SPELLINGS) >= 32 and len(DISGUISES) + 1 == 19
    assert len({spell(NAME) for spell in SPELLINGS.values()}) == len(SPELLINGS)
