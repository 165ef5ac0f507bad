"""How else a text may be written: letter by letter, in other cases, with a slip of the pen."""

from __future__ import annotations

import random
import re


def without_article(value: str) -> str:
    """``a baker`` is ``baker``, ``the Velmar Medal`` is ``Velmar Medal``."""
    return re.sub(r"^(a|an|the)\s+", "", value, flags=re.IGNORECASE)


def spell(text: str) -> str:
    """``sea stories`` letter by letter: ``s e a / s t o r i e s``."""
    return " / ".join(" ".join(word) for word in text.split())


def spaced(text: str) -> str:
    """A name with a space after every letter, two between words."""
    return "  ".join(" ".join(word) for word in text.split())


def marked(text: str, mark: str) -> str:
    """A mark between the letters of every word: ``A-d-a O-r-a-m``."""
    return " ".join(mark.join(word) for word in text.split())


def alternating(text: str) -> str:
    """Every other letter a capital: ``aDa oRaM``."""
    return "".join(c.upper() if i % 2 else c.lower() for i, c in enumerate(text))


def at_random(text: str, rng: random.Random) -> str:
    """Letters in either case."""
    return "".join(rng.choice((c.lower(), c.upper())) for c in text)


def swapped(text: str, rng: random.Random) -> str:
    """Two neighbouring letters of one word change places; the first stays."""
    at = _inside(text, rng)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def mistyped(text: str, rng: random.Random) -> str:
    """One letter of one word is missing, or there twice; the first and the last stay."""
    at = _inside(text, rng)
    return text[:at] + text[at] * rng.choice((0, 2)) + text[at + 1 :]


def _inside(text: str, rng: random.Random) -> int:
    """The place of a letter that is neither the first nor the last of its word."""
    return rng.choice([i for i in range(1, len(text) - 1) if text[i - 1 : i + 2].isalnum()])


def letters(text: str) -> str:
    """Letters and digits alone, casefolded."""
    return "".join(c for c in text.casefold() if c.isalnum())
