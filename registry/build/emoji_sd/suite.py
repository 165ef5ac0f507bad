"""The prompt suite as training needs it: which pairs there are, and what each object is called in a pack."""

from __future__ import annotations

from pathlib import Path

from conceptguard.measuring.suite import Object, Suite, with_article
from conceptguard.measuring.suite import load_suite as _load_suite

__all__ = ["Object", "Suite", "icon_in", "load_suite", "pairs", "with_article"]

SUITE = Path(__file__).resolve().parents[2] / "suites" / "emoji-sd"


def load_suite() -> Suite:
    return _load_suite(SUITE)


def icon_in(obj: Object, pack: str) -> str:
    """The name of an object's icon in a pack."""
    return obj.icons.get(pack, obj.icon)


def pairs(suite: Suite, held_out: bool) -> list[tuple[Object, str]]:
    """All object x style pairs that were trained on, or all that were held out."""
    unseen = set(suite.held_out)
    return [(o, s) for o in suite.objects for s in suite.styles if ((o.name, s) in unseen) == held_out]
