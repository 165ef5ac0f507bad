"""Text as the phrase bank compares it: letters and breaks, whatever the case, the spacing and the look of the letters.

Look-alikes are those of Unicode Technical Standard 39, as far as they look like an ASCII letter or digit; ASCII itself
is left as it is, so that "corn" is not "com".
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import accumulate

BREAK = " "
_ACCENTS = ((0x300, 0x36F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF))  # not the vowels of Indic scripts
# Scripts that write no spaces: every letter is a word of its own.
_UNSPACED = ((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x31FF), (0x3400, 0x9FFF), (0x20000, 0x3FFFF))


_RUN = re.compile(f"{BREAK}{BREAK}+")


class _Folding(dict[int, str]):
    """For ``str.translate``: what each character is folded to, found once."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _fold(chr(code))
        return found


_FOLDING = _Folding()


def fold(text: str) -> str:
    """Letters and digits, casefolded, without accents, look-alikes resolved; anything between them is one BREAK.

    A break at the beginning or the end is kept: what stands beside the text may join it.
    """
    folded = text.translate(_FOLDING)
    return _RUN.sub(BREAK, folded) if BREAK * 2 in folded else folded


def _fold(char: str) -> str:
    if char.isascii():
        return char.lower() if char.isalnum() else BREAK
    parts = unicodedata.normalize("NFKD", char)
    if not parts.isascii() and char in (like := _look_alikes()):
        return like[char]
    return "".join(_letter(part) for part in parts) if parts != char else _letter(char)


def _letter(char: str) -> str:
    """One character that does not decompose any further."""
    if char.isascii():
        return _fold(char)
    if any(first <= ord(char) <= last for first, last in _ACCENTS) or unicodedata.category(char) == "Cf":
        return ""  # also zero-width characters and soft hyphens
    if 0xFE00 <= ord(char) <= 0xFE0F:  # variation selectors
        return ""
    if (like := _look_alikes().get(char)) is not None:
        return like
    if any(first <= ord(char) <= last for first, last in _UNSPACED) and char.isalnum():
        return f"{BREAK}{char}{BREAK}"
    joined = char.isalnum() or unicodedata.category(char) in ("Mn", "Mc")
    return (
        "".join(c for c in unicodedata.normalize("NFKD", char.casefold()) if c.isalnum()) or char if joined else BREAK
    )


@lru_cache(maxsize=1)
def _look_alikes() -> dict[str, str]:
    """The ASCII letter or digit, lower case, that a character of another script looks like."""
    from confusable_homoglyphs.confusables import confusables_data

    found = {}
    for char, alike in confusables_data.items():
        if len(char) == 1 and not char.isascii():
            ascii_ = [other["c"] for other in alike if other["c"].isascii() and other["c"].isalnum()]
            if len(ascii_) == 1 and len(ascii_[0]) == 1:
                found[char] = ascii_[0].lower()
    return found


def forms(phrase: str) -> set[str]:
    """A phrase folded, in every case it may be written in: look-alikes of capitals differ from those of small letters.

    Each begins and ends with a letter; empty where the phrase has none.
    """
    written = (phrase,) if phrase.isascii() else (phrase, phrase.lower(), phrase.upper(), phrase.title())
    return {folded for one in written if (folded := fold(one).strip(BREAK))}


def letters_and_breaks(folded: str) -> tuple[str, tuple[int, ...]]:
    """ "new york" -> ("newyork", (3,)): the letters, and after how many of them there is a break."""
    runs = folded.split(BREAK)
    return "".join(runs), tuple(accumulate(map(len, runs[:-1])))
