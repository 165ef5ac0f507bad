"""Phrases as the bank compares them: letters, the breaks between them, and the signs that belong to them."""

from __future__ import annotations

import re

from conceptguard.text.folding import BREAK, DOT, JOINT, fold, letter_runs, separates

GAP = "_"  # stands in a phrase for a separator that must be there
_INITIALS = re.compile(r"[\W_]*(?:[^\W_][\W_]+)+[^\W_][\W_]*")


def forms(phrase: str) -> set[str]:
    """A phrase folded, in every case it may be written in: look-alikes of capitals differ from those of small letters.

    Signs are part of it: "C++" is not "C". Initials stay apart: "U.S." is no "us". Each form begins and ends with a
    letter or a sign; there is none where the phrase has neither.
    """
    written = (phrase,) if phrase.isascii() else (phrase, phrase.lower(), phrase.upper(), phrase.title())
    return {form for one in written if (form := _form(one))}


def _form(phrase: str) -> str:
    words = phrase.split()
    if phrase.isascii() and "".join(words).isalnum() and max(map(len, words)) > 1:  # as nearly all are, without signs
        return BREAK.join(words).lower()
    runs = letter_runs(fold(phrase))
    found = ""
    for i, run in enumerate(runs):
        begins = (i == 0 or runs[i - 1] == BREAK) and i + 1 < len(runs) and not separates(runs[i + 1])
        joins = run in (BREAK, JOINT) or (run == DOT and not begins)
        found += BREAK if joins else run
    found = re.sub(f"{BREAK}+", BREAK, found.strip(BREAK))
    initials = phrase.isascii() and _INITIALS.fullmatch(phrase) and not any(separates(c) for c in found if c != BREAK)
    return found.replace(BREAK, GAP) if initials else found


def lost(phrase: str, left: str) -> bool:
    """Whether a phrase is one or two letters without its marks: it would be found where nobody meant it."""
    return len(left) <= 2 and left.isalnum() and any(not c.isalnum() and not c.isspace() for c in phrase)
