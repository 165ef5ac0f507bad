"""What ``conceptguard eval`` asks for: cases of methods."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .options import split

if TYPE_CHECKING:
    from ..measuring.evaluate import Case
    from ..measuring.suite import Suite


CLOSED = ("uce", "rece", "trce", "nullspace", "few_shot", "advunlearn")
SOME = 5  # concepts of the suite that are judged where nobody says which


def makers_of(suite: Suite, which: str) -> list[str]:
    """The methods with artifacts for a suite's model: ``closed`` takes those that are solved, or that change a text
    encoder, ``all`` every one that erases. What has none is named on standard error. Raises PolicyError, RegistryError.
    """
    from .. import plugins
    from ..errors import PolicyError, RegistryError
    from ..measuring.evaluate import available

    if which not in ("closed", "all"):
        raise PolicyError(f"--makers {which}: give closed or all")
    known = plugins.methods()
    names = [name for name in (CLOSED if which == "closed" else known) if name in known]
    made = [name for name in names if known[name].needs == "artifact" and available(suite, name)]
    lacking = [name for name in names if name not in made and which == "closed"]
    if lacking:
        print(f"conceptguard: left out, for lack of artifacts: {', '.join(lacking)}", file=sys.stderr)
    if not made:
        raise RegistryError(f"no artifacts of these methods for {suite.base}: make some with `conceptguard make`")
    return made


def of_methods(
    suite: Suite, methods: list[str], wanted: str, gate: str, settings: dict[str, Any], together: int, n: int, seed: int
) -> list[Case]:
    """A case for each concept of each method, or for so many together.

    wanted: names, ``all`` or ``some``. Raises RegistryError for too few artifacts.
    """
    from ..errors import RegistryError
    from ..measuring.evaluate import available, case, policy_for
    from ..measuring.policies import each_of

    found = []
    for name in methods:
        label = " ".join([name, *(f"{key}={value}" for key, value in settings.items())])
        if wanted in ("all", "some"):
            concepts = available(suite, name, together > 1)[: SOME if wanted == "some" else None]
        else:
            concepts = suite.check(split(wanted))
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
