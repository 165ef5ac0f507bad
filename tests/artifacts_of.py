"""What the contract kit runs a method with: by what its artifacts hold, where a host or a shipped file gives it."""

from __future__ import annotations

from typing import Any

from conceptguard import plugins

TRAINED = ("spm", "esd", "co_erasing", "all_but_one", "salun", "doco", "realera", "sfd", "lora")
EDITS = ("uce", "rece", "nullspace")  # in closed form
ENCODED = ("few_shot", "advunlearn")  # terms beside a text encoder alone
AUTHORS = ("guard", "rocr", "deletion")  # for the embedded language model
CONCEPT = {"name": "cigarette", "prompts": ["a cigarette", "smoking"]}


def speaking(method: str) -> dict[str, Any]:
    """A guard of a method for language models. Where it can be no more than refused, any artifact of one will do."""
    if plugins.method(method).needs == "artifact":
        return {"method": method, "artifact": f"authors-lm/{method if method in AUTHORS else 'guard'}/forget-authors"}
    return {"method": method} if method == "no_thinking" else {"method": method, "concept": CONCEPT}
