"""What is judged: policies made of artifacts or of a suite's words, each with the prompts to judge it by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import plugins
from ..errors import RegistryError
from ..files.paths import slug
from ..policy import Policy
from ..policy_file import load_policy
from ..registry import Registry, default_registry
from . import suite as suites
from .suite import Sample, Suite


@dataclass
class Case:
    """What is judged in one row: a policy, what it erases, and prompts to ask.

    others: shared by all rows
    seed: of the first prompt
    unnamed, synonyms: a policy whose guard was told the concept's name alone, and prompts in other words for it
    """

    method: str
    concepts: list[str]
    policy: Policy
    gated: bool = True
    erased: list[Sample] = field(default_factory=list)
    neighbours: list[Sample] = field(default_factory=list)
    others: list[Sample] = field(default_factory=list)
    seed: int = 0
    unnamed: Policy | None = None
    synonyms: list[Sample] = field(default_factory=list)

    @property
    def groups(self) -> list[list[Sample]]:
        """The lists of samples, in the order of ``GROUPS``; the last one only where something is in it."""
        return [self.erased, self.neighbours, self.others, *([self.synonyms] if self.synonyms else [])]

    @property
    def samples(self) -> list[Sample]:
        """All of them."""
        return [sample for group in self.groups for sample in group]

    @property
    def drawn(self) -> list[tuple[Policy, list[list[Sample]]]]:
        """What each policy is to draw, in the order of ``groups``."""
        first = (self.policy, self.groups[:3])
        return [first, (self.unnamed, [self.synonyms])] if self.unnamed and self.synonyms else [first]


def case(
    suite: Suite,
    method: str,
    concepts: Sequence[str],
    policy: Policy,
    each: int,
    others: int,
    *,
    seed: int = 0,
    gated: bool = True,
) -> Case:
    """The prompts for one row: ``each`` that ask for each concept, as many for its neighbours, and ``others``.

    Raises RegistryError for a concept that the suite does not know.
    """
    suite.check(concepts)
    several = len(concepts) > 1
    found = Case(method, list(concepts), policy, gated, seed=seed * 100_000)
    for i, concept in enumerate(concepts):
        # Several concepts share few prompts each: starting at another one each time keeps the wordings varied. Even
        # places ask for a concept by its name.
        start, at = (2 * i, seed * 100_000 + i * 100) if several else (0, seed * 100_000)
        found.erased += suites.erased(suite, concept, each, at, start=start)
        found.neighbours += suites.neighbours(suite, concept, each, 10_000 + at, without=concepts, start=start)
    found.others = suites.others(suite, others, 20_000 + seed * 100_000, without=concepts)
    return found


def policy_for(
    suite: Suite,
    method: str,
    concepts: Iterable[str],
    gate: str = "prompt",
    settings: Mapping[str, Any] | None = None,
    artifacts: bool = True,
    registry: Registry | None = None,
) -> Policy:
    """A policy of one method about the suite's concepts: artifacts where the registry has them or the method needs
    them, else the suite's words for each concept, and its other words for what gates are to stay shut for, as artifacts
    were made with.

    settings: the method's own, for every guard; artifacts: false for another base model than the suite's; registry:
    where artifacts are looked for, and then named by their folders

    Raises RegistryError for an artifact that is missing, PolicyError for a setting that the method does not know.
    """
    found, there = [], {entry.ref for entry in (registry or default_registry()).entries()} if artifacts else set()
    for concept in concepts:
        ref = artifact_of(suite, method, concept)
        about: dict[str, Any] = {"concept": {"name": concept, "prompts": suite.words(concept)}}
        if plugins.method(method).any_concept:
            about["artifact"] = _named(_serving(suite, method, registry), registry)
        elif plugins.method(method).needs == "artifact" or ref in there:
            about = {"artifact": _named(ref, registry)}
        elif gate == "prompt" and "cross_attention" in plugins.hooks(plugins.method(method)):
            about["preserve"] = suite.words_beside([concept])
        found.append({"method": method, "gate": gate, **about, **(settings or {})})
    # What an image guard flags is not to be recognised; nothing else is asked of it here.
    return load_policy({"name": f"{method} {gate}", "on_violation": "black", "guards": found})


def made_by(policy: Policy) -> str:
    """The method of a policy's only guard where an artifact of one concept is behind it, else nothing."""
    guards = policy.guards
    return guards[0].method if len(guards) == 1 and guards[0].artifact and guards[0].concept is None else ""


def artifact_of(suite: Suite, method: str, concept: str) -> str:
    """The reference of a method's artifact about a concept of the suite."""
    return f"{suite.base}/{method}/{slug(concept)}"


def _named(ref: str, registry: Registry | None) -> str:
    """An artifact as a policy names it. Raises RegistryError when there is none."""
    if registry is None:
        return default_registry().find(ref).ref
    return str(registry.load(registry.find(ref).ref).folder.absolute())


def _serving(suite: Suite, method: str, registry: Registry | None = None) -> str:
    """The artifact of a method that serves any concept. Raises RegistryError when there is none."""
    entries = (registry or default_registry()).entries()
    made = [e.ref for e in entries if (e.base, e.method) == (suite.base, method)]
    if not made:
        raise RegistryError(f"no artifact of method '{method}' for {suite.base}: make one with `conceptguard make`")
    return made[0]


def concepts_of(policy: Policy) -> list[str]:
    """The names of the concepts that a policy guards, each once. Raises RegistryError for a missing artifact."""
    registry = default_registry()
    names = [
        name
        for guard in policy.guards
        if guard.artifact or guard.concept
        for name in ([guard.concept.name] if guard.concept else registry.load(guard.artifact).manifest.concept_names)  # type: ignore[arg-type]
    ]
    return list(dict.fromkeys(names))


def available(suite: Suite, method: str, anything: bool = False, registry: Registry | None = None) -> list[str]:
    """The suite's concepts that a method can be judged on, in the suite's order: those with an artifact in the
    registry, or all where the method needs none of their own.

    anything: then also whatever else the model can draw and an artifact is about
    """
    if plugins.method(method).needs != "artifact" or plugins.method(method).any_concept:
        return suite.all_concepts
    entries = (registry or default_registry()).entries()
    there = {entry.name for entry in entries if (entry.base, entry.method) == (suite.base, method)}
    more = [it.name for it in suite.objects] if anything else []
    return [concept for concept in dict.fromkeys([*suite.all_concepts, *more]) if slug(concept) in there]
