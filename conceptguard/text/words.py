"""Words in texts."""

from __future__ import annotations

import re
from collections.abc import Sequence


def stands_in(part: str, text: str) -> bool:
    """Whether ``part`` stands in ``text`` as whole words, whatever its case: "gun" does in "a Gun.", not in "begun"."""
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text, re.IGNORECASE) is not None


def any_of(phrases: Sequence[str]) -> re.Pattern[str]:
    """Finds any of the phrases as whole words."""
    either = "|".join(re.escape(phrase.strip()) for phrase in sorted(phrases, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)
