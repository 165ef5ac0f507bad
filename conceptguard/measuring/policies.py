"""Policies as cases to be judged."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RegistryError
from ..files.paths import is_ref
from ..policy import Policy
from ..registry import default_registry
from .cases import Case, case, concepts_of
from .suite import Suite


def in_full(policy: Policy, base: str) -> Policy:
    """The policy with its artifacts' short names in full, of several artifacts those for a family of base models.

    Raises RegistryError where several are left.
    """
    registry = default_registry()
    names = {guard.artifact for guard in policy.guards if guard.artifact}
    full = {one: registry.find(one, [base]).ref for one in names if not is_ref(one) and len(registry.ending(one)) > 1}
    guards = [guard.model_copy(update={"artifact": full.get(guard.artifact or "", guard.artifact)})
              for guard in policy.guards]  # fmt: skip
    return policy.model_copy(update={"guards": guards})


def each_of(n: int, concepts: int) -> int:
    """How many prompts of each of so many concepts that are judged at once, where one by itself has ``n``."""
    return n if concepts == 1 else max(2, round(n / concepts**0.5))


def cases_of(suite: Suite, policies: Sequence[Policy], n: int, seed: int) -> list[Case]:
    """A case for each policy, about all its concepts that the suite knows. Raises RegistryError where it knows none."""
    found = []
    for rules in (in_full(one, suite.base) for one in policies):
        concepts = suite.known(concepts_of(rules))
        if not concepts:
            raise RegistryError(f"policy '{rules.name}' guards none of the suite's concepts: {suite.all_concepts}")
        gated = all(guard.gate == "prompt" for guard in rules.guards)
        found.append(case(suite, rules.name, concepts, rules, each_of(n, len(concepts)), 2 * n, seed=seed, gated=gated))
    return found
