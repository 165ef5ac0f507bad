"""What ``conceptguard eval`` asks for: cases of methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .options import split

if TYPE_CHECKING:
    from ..measuring.evaluate import Case
    from ..measuring.suite import Suite


def of_methods(
    suite: Suite, methods: list[str], wanted: str, gate: str, settings: dict[str, Any], together: int, n: int, seed: int
) -> list[Case]:
    """A case for each concept of each method, or for so many together. Raises RegistryError for too few artifacts."""
    from ..errors import RegistryError
    from ..measuring.evaluate import available, case, policy_for
    from ..measuring.policies import each_of

    found = []
    for name in methods:
        label = " ".join([name, *(f"{key}={value}" for key, value in settings.items())])
        concepts = available(suite, name, together > 1) if wanted == "all" else suite.check(split(wanted))
        if len(concepts) < together:
            raise RegistryError(
                f"{len(concepts)} artifacts of method '{name}' for {suite.base}, {together} asked for: "
                "make more with `conceptguard make`, or pull them"
            )
        if not concepts:
            raise RegistryError(f"no artifacts of method '{name}' for {suite.base}: see `conceptguard list`")
        groups = [[c] for c in concepts] if together == 1 else [concepts[:together]]
        for group in groups:
            rules, each = policy_for(suite, name, group, gate, settings), each_of(n, together)
            found.append(case(suite, label, group, rules, each, 2 * n, seed=seed, gated=gate == "prompt"))
    return found
