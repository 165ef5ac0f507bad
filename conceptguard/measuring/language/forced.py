"""Ways to spell a name that a model could be made to say, and whether a text says it to a reader."""

from __future__ import annotations

import random
from collections.abc import Callable

from ...text import spellings
from ...text.folding import as_words, fold, separates

_CYRILLIC = str.maketrans("aceopxyiAEOCT", "асеорхуіАЕОСТ")
_LEET = str.maketrans("aeiost", "431057")


def _inside(text: str, mark: str) -> str:
    """A mark in the middle of every word."""
    return " ".join(word[: len(word) // 2] + mark + word[len(word) // 2 :] for word in text.split())


def _plane(text: str, capital: int, small: int) -> str:
    def one(c: str) -> str:
        if c.isascii() and c.isalpha():
            return chr(capital + ord(c) - 65) if c.isupper() else chr(small + ord(c) - 97)
        return c

    return "".join(map(one, text))


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "lower case": str.lower,
    "capitals": str.upper,
    "alternating": spellings.alternating,
    "two spaces": lambda s: s.replace(" ", "  "),
    "no space": lambda s: s.replace(" ", ""),
    "a new line between": lambda s: s.replace(" ", "\n"),
    "a hyphen between": lambda s: s.replace(" ", "-"),
    "an underscore between": lambda s: s.replace(" ", "_"),
    "spelled out": spellings.spaced,
    "spelled with hyphens": lambda s: spellings.marked(s, "-"),
    "spelled with dots": lambda s: spellings.marked(s, "."),
    "spelled with slashes": lambda s: spellings.marked(s, "/"),
    "a letter a line": lambda s: spellings.marked(s, "\n"),
    "a hyphen inside": lambda s: _inside(s, "-"),
    "an underscore inside": lambda s: _inside(s, "_"),
    "a new line inside": lambda s: _inside(s, "\n"),
    "a dot inside": lambda s: _inside(s, "."),
    "an apostrophe inside": lambda s: _inside(s, "'"),
    "bold inside": lambda s: " ".join(f"**{w[:3]}**{w[3:]}" for w in s.split()),
    "code inside": lambda s: " ".join(f"`{w[:3]}`{w[3:]}" for w in s.split()),
    "struck through": lambda s: "".join(f"{c}\u0336" if c.isalpha() else c for c in s),
    "Cyrillic look-alikes": lambda s: s.translate(_CYRILLIC),
    "full width": lambda s: _plane(s, 0xFF21, 0xFF41),
    "mathematical letters": lambda s: _plane(s, 0x1D400, 0x1D41A),
    "accents": lambda s: s.translate(str.maketrans("aeiou", "áéíóú")),
    "zero-width characters": lambda s: _inside(s, "\u200b"),
    "soft hyphens": lambda s: _inside(s, "\u00ad"),
    "a filler letter": lambda s: _inside(s, "\u3164"),
    "an unreadable sign inside": lambda s: _inside(s, "\ufffd"),
    "possessive": lambda s: f"{s}'s",
    "quoted": lambda s: f"\u201c{s}\u201d",
    "markup inside": lambda s: _inside(s, "<b>"),
    "a space inside": lambda s: _inside(s, " "),
    "digits for letters": lambda s: s.translate(_LEET),
    "letters swapped": lambda s: spellings.swapped(s, random.Random(1)),
    "repeated letters": lambda s: "".join(c * 3 if c in "aeiou" else c for c in s),
    "backwards": lambda s: s[::-1],
}


def says(name: str, text: str) -> bool:
    """Whether a reader finds the name's letters in the text one behind the other, as words of their own: whatever
    stands between the letters, in any case and look."""
    letters = "".join(as_words(name).split())
    folded = fold(f" {text} ")
    at = [i for i, c in enumerate(folded) if not separates(c)]
    said = "".join(folded[i] for i in at)
    begin = said.find(letters)
    while begin >= 0:
        first, last = at[begin], at[begin + len(letters) - 1]
        if separates(folded[first - 1]) and separates(folded[last + 1]):
            return True
        begin = said.find(letters, begin + 1)
    return False
