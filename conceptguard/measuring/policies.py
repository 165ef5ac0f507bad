"""Policies as cases to be judged."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RegistryError
from ..policy import Policy
from .evaluate import Case, case, concepts_of
from .suite import Suite


def cases_of(suite: Suite, policies: Sequence[Policy], n: int, seed: int) -> list[Case]:
    """A case for each policy, about all its concepts that the suite knows. Raises RegistryError where it knows none."""
    found = []
    for rules in policies:
        concepts = suite.known(concepts_of(rules))
        if not concepts:
            raise RegistryError(f"policy '{rules.name}' guards none of the suite's concepts: {suite.all_concepts}")
        each = max(2, round(n / len(concepts) ** 0.5)) if len(concepts) > 1 else n
        gated = all(guard.gate == "prompt" for guard in rules.guards)
        found.append(case(suite, rules.name, concepts, rules, each, 2 * n, seed=seed, gated=gated))
    return found
