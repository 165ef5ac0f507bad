"""What a text looks like to a reader: letters and what stands between them, whatever the case, the marks that one may
leave out, and the look of the letters.

Look-alikes are those of Unicode Technical Standard 39, as far as they look like an ASCII letter or digit; ASCII itself
is left as it is, so that "corn" is not "com". Optional are accents, the vowel points of Arabic, Hebrew and Syriac, the
dots of Indic letters, and what lengthens a line; the vowel signs of Indic and Thai scripts are letters.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import accumulate

BREAK = " "  # a space: a word ends here
JOINT = "-"  # any other mark or a new line: a word may end here, or go on
DOT = "."  # a joint that is told apart, for names that begin with one
# These, and of ASCII punctuation what may carry meaning, as all symbols do.
_BETWEEN = frozenset((BREAK, JOINT, DOT, *"#&@%*/\\"))

# Scripts that write no spaces: every letter is a word of its own.
_UNSPACED = ((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x31FF), (0x3400, 0x9FFF), (0x20000, 0x3FFFF))
_LINES = "\n\r\u2028\u2029"
# Invisible, though Unicode counts them as letters or marks: fillers, variation selectors, lengthening strokes.
_NOTHING = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u0640\u07fa\u06e5\u06e6"
    + "".join(map(chr, (*range(0x180A, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)
# How else people write a letter of their script.
_VARIANTS = {
    **dict.fromkeys("ٱٲٳ", "ا"), **dict.fromkeys("ىیېے", "ي"), **dict.fromkeys("کڪ", "ك"),
    **dict.fromkeys("ةەہۃھۀ", "ه"), **dict(zip("ךםןףץ", "כמנפצ")), "װ": "וו", "ױ": "וי", "ײ": "יי",
    **dict(zip("øłđðħŧıɨʉ", "olddhtiiu")), "æ": "ae", "œ": "oe", "þ": "th",
    **{chr(code): chr(code - 0x60) for code in range(0x30A1, 0x30F7)},  # katakana as hiragana
}  # fmt: skip

_RUN = re.compile(f"[{BREAK}{JOINT}]{{2,}}")


class _Folding(dict[int, str]):
    """For ``str.translate``: what each character is folded to, found once."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _fold(chr(code))
        return found


class _Plain(dict[int, str]):
    """For ``str.translate`` of folded text: separators and signs as breaks."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = found = BREAK if separates(char) else char
        return found


_FOLDING, _PLAIN = _Folding(), _Plain()


def fold(text: str) -> str:
    """Letters and digits, casefolded, without optional marks, look-alikes resolved. Between them BREAK where there is a
    space, JOINT for other marks, and signs (``+ # $``, see ``separates``) as they are.

    What stands at the beginning or the end is kept: what stands beside the text may join it.
    """
    folded = text.translate(_FOLDING)
    return _RUN.sub(lambda run: BREAK if BREAK in run[0] else JOINT, folded)


def plain(folded: str) -> str:
    """Folded text with BREAK for everything that is no letter: the words of it."""
    return re.sub(f"{BREAK}{BREAK}+", BREAK, folded.translate(_PLAIN))


def as_words(text: str) -> str:
    """A text as words alone, folded, one BREAK between them."""
    return plain(fold(text))


def letters_and_breaks(folded: str) -> tuple[str, tuple[int, ...]]:
    """ "new york" -> ("newyork", (3,)): the letters, and after how many of them there is a break."""
    runs = folded.split(BREAK)
    return "".join(runs), tuple(accumulate(map(len, runs[:-1])))


@lru_cache(maxsize=4096)
def separates(run: str) -> bool:
    """Whether a character of folded text, or a run of it, is no letter: BREAK, JOINT, DOT, or a sign."""
    return run[0] in _BETWEEN or unicodedata.category(run[0]).startswith("S")


def letter_runs(folded: str) -> list[str]:
    """Folded text as its runs of letters and, one by one, what stands between them."""
    if folded.isalnum():
        return [folded]
    found: list[str] = []
    inside = False
    for char in folded:
        between = separates(char)
        if inside and not between:
            found[-1] += char
        else:
            found.append(char)
        inside = not between
    return found


def _fold(char: str) -> str:
    if char.isascii():
        return _ascii(char)
    if char in _NOTHING:
        return ""
    if (own := _own(char)) is not None:
        return own
    parts = unicodedata.normalize("NFKD", char)
    if not parts.isascii() and char in (like := _look_alikes()):
        return like[char]
    if parts[0] == " " and char != "\xa0" and not char.isspace():
        return JOINT  # an accent by itself
    return "".join(_letter(part) for part in parts) if parts != char else _letter(char)


def _own(char: str) -> str | None:
    """A letter that is written in several ways, in its usual one, or a digit of any script."""
    if char in _VARIANTS:
        return "".join(map(_fold, _VARIANTS[char]))
    if unicodedata.category(char) == "Nd":
        return str(unicodedata.digit(char))
    return None


def _ascii(char: str) -> str:
    if char.isalnum():
        return char.lower()
    if char.isspace():
        return JOINT if char in _LINES else BREAK
    if not char.isprintable():
        return ""
    return char if char == DOT or separates(char) else JOINT


def _letter(char: str) -> str:
    """One character that does not decompose any further."""
    if char.isascii():
        return _ascii(char)
    if char in _NOTHING or _may_be_left_out(char):
        return ""
    if char in _LINES or char.isspace() or char == "\u2800":
        return JOINT if char in _LINES else BREAK
    if (like := _look_alikes().get(char)) is not None:
        return like
    lower = char.casefold()
    if lower in _VARIANTS:
        lower = _VARIANTS[lower]
        if lower.isascii():
            return lower
    if any(first <= ord(char) <= last for first, last in _UNSPACED) and char.isalnum():
        return f"{BREAK}{lower}{BREAK}"
    category = unicodedata.category(char)
    if char.isalnum() or category in ("Mn", "Mc"):
        return "".join(c for c in unicodedata.normalize("NFKD", lower) if c.isalnum()) or char
    return char if category.startswith("S") else JOINT


def _may_be_left_out(char: str) -> bool:
    """Accents and overlays, points of Hebrew, Arabic and Syriac, dots of Indic letters (by Unicode's classes of
    combining marks), enclosing circles, and what formats: zero-width characters, soft hyphens, directions."""
    category = unicodedata.category(char)
    place = unicodedata.combining(char)
    return category in ("Cf", "Cc", "Me") or place in (1, 7) or 10 <= place <= 36 or 200 <= place <= 240


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
