"""What ``conceptguard eval`` asks for: cases of methods."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import split

if TYPE_CHECKING:
    from ..measuring.cases import Case
    from ..measuring.suite import Suite
    from ..registry import Registry


MAKERS = {
    "closed": ("uce", "rece", "trce", "nullspace", "few_shot", "advunlearn"),
    "trained": ("spm", "esd", "all_but_one", "ant", "doco", "realera", "salun", "co_erasing", "sfd"),
}
SOME = 5  # concepts of the suite that are judged where nobody says which


def makers_of(suite: Suite, which: str, registry: Registry | None = None) -> list[str]:
    """The methods with artifacts for a suite's model: ``closed`` takes those that are solved, or that change a text
    encoder, ``trained`` those whose layers are trained, ``all`` every one that erases. What has none is named on
    standard error. Raises PolicyError, RegistryError.
    """
    from .. import plugins
    from ..errors import PolicyError, RegistryError
    from ..measuring.cases import available
    from ..registry import default_registry

    if which not in (*MAKERS, "all"):
        raise PolicyError(f"--makers {which}: give {', '.join(MAKERS)} or all")
    known = plugins.methods()
    names = [name for name in MAKERS.get(which, known) if name in known]
    there = {entry.method for entry in (registry or default_registry()).entries() if entry.base == suite.base}
    # What needs none and has some all the same, as ant and trce, is judged by them where somebody asks for makers.
    needy = {name for name in names if known[name].needs == "artifact" or (which in MAKERS and name in there)}
    made = [name for name in names if name in needy and available(suite, name, registry=registry)]
    lacking = [name for name in names if name not in made and which in MAKERS]
    if lacking:
        print(f"conceptguard: left out, for lack of artifacts: {', '.join(lacking)}", file=sys.stderr)
    if not made:
        raise RegistryError(f"no artifacts of these methods for {suite.base}: make some with `conceptguard make`")
    return made


def of_methods(
    suite: Suite, methods: list[str], wanted: str, gate: str, settings: dict[str, Any], together: int, n: int,
    seed: int, registry: Registry | None = None,
) -> list[Case]:  # fmt: skip
    """A case for each concept of each method, or for so many together.

    wanted: names, ``all`` or ``some``; registry: where artifacts are, by default in all that are known. Raises
    RegistryError for too few artifacts.
    """
    from ..errors import RegistryError
    from ..measuring.cases import available, case, policy_for
    from ..measuring.policies import each_of

    found = []
    for name in methods:
        label = " ".join([name, *(f"{key}={value}" for key, value in settings.items())])
        if wanted in ("all", "some"):
            concepts = available(suite, name, together > 1, registry)[: SOME if wanted == "some" else None]
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
            rules, each = policy_for(suite, name, group, gate, settings, registry=registry), each_of(n, together)
            found.append(case(suite, label, group, rules, each, 2 * n, seed=seed, gated=gate == "prompt"))
    return found


@dataclass(frozen=True)
class Anew:
    """What artifacts are made of that are made for the occasion, in ``out``, and how their gates are to open."""

    pipe: Any
    suite: Suite
    out: Path
    gate: str
    registry: Registry | None


def told_names_alone(cases: list[Case], anew: Anew, n: int) -> list[Case]:
    """The cases of one concept with prompts by its synonyms, and a policy whose artifact was told its name alone.

    Raises PolicyError and ArtifactError where one cannot be made.
    """
    from ..measuring.anew import name_alone
    from ..measuring.cases import made_by
    from ..measuring.suite import synonyms
    from ..plugins import host_for
    from .progress import progress

    host, made, found = host_for(anew.pipe), {}, []
    with progress("artifacts of names alone", len(cases)) as tick:
        for one in cases:
            method, concept = made_by(one.policy), one.concepts[0]
            asked = synonyms(anew.suite, concept, n, 30_000 + one.seed) if len(one.concepts) == 1 else []
            if method and asked:
                if (method, concept) not in made:
                    made[method, concept] = name_alone(
                        host, anew.suite, method, concept, anew.out, anew.gate, anew.registry
                    )
                one = replace(one, unnamed=made[method, concept], synonyms=asked)
            found.append(one)
            tick(1)
    return found


def crowds_of(methods: list[str], anew: Anew, seeds: int) -> list[Case]:
    """Twenty objects at once, and half of all, of the methods that make one artifact of several concepts.

    A method without room for as many is named on standard error and left out.
    """
    from .. import plugins
    from ..measuring.anew import crowd_at_once, crowds
    from ..plugins import host_for

    host = host_for(anew.pipe)
    return _each_made([
        (name, len(crowd.erased),
         partial(crowd_at_once, host, anew.suite, name, crowd, anew.out, anew.gate, seeds, anew.registry))
        for crowd in crowds(anew.suite) for name in methods if plugins.method(name).several
    ])  # fmt: skip


def few_of(methods: list[str], first: list[str], count: int, anew: Anew, n: int, seeds: int) -> list[Case]:
    """So many concepts at once, those of ``first`` before others of the suite, each method by one artifact.

    A method that makes none of several concepts is named on standard error and left out. Raises RegistryError where the
    suite has fewer concepts.
    """
    from ..errors import RegistryError
    from ..measuring.anew import few_at_once
    from ..plugins import host_for

    concepts = list(dict.fromkeys([*first, *anew.suite.concepts]))[:count]
    if len(concepts) < count:
        raise RegistryError(f"{count} concepts at once: the suite for {anew.suite.base} has {len(concepts)}")
    host = host_for(anew.pipe)
    return _each_made([
        (name, count,
         partial(few_at_once, host, anew.suite, name, concepts, anew.out, anew.gate, n, seeds, anew.registry))
        for name in methods
    ])  # fmt: skip


def _each_made(wanted: list[tuple[str, int, Callable[[], list[Case]]]]) -> list[Case]:
    """The cases of artifacts of several concepts; wanted: (method, how many concepts, how they are made)."""
    from ..errors import ConceptGuardError
    from .progress import progress

    found: list[Case] = []
    with progress("artifacts of many at once", len(wanted)) as tick:
        for name, count, made in wanted:
            try:
                found += made()
            except ConceptGuardError as error:
                print(f"conceptguard: left out: {name} of {count} at once: {error}", file=sys.stderr)
            tick(1)
    return found
