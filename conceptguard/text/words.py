"""Words in texts."""

from __future__ import annotations

import re


def stands_in(part: str, text: str) -> bool:
    """Whether ``part`` stands in ``text`` as whole words, whatever its case: "gun" does in "a Gun.", not in "begun"."""
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text, re.IGNORECASE) is not None
