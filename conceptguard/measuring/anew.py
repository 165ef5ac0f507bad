"""Artifacts that are made for a measurement, and thrown away after it.

Two things cannot be read off artifacts that ship: whether a method reaches words that nobody told it, since those that
ship are told all words there are; and what is left when one artifact erases many at once: a few concepts, or a crowd,
half of all that a model draws.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from .. import plugins
from ..errors import PolicyError, RegistryError
from ..making.settings import known_of
from ..policy import Policy
from ..policy_file import load_policy
from ..registry import Artifact, Registry, default_registry
from ..text.words import stands_in
from . import suite as suites
from .cases import Case, artifact_of, case
from .policies import each_of
from .suite import Object, Sample, Suite

FEW = 20  # of the smaller crowd
CUTOFFS = (None, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)  # of a null space, until there is room


def name_alone(
    host: Any, suite: Suite, method: str, concept: str, out: Path, gate: str, registry: Registry | None = None
) -> Policy:
    """A policy about a concept whose artifact was told its name and nothing else, made as the one that ships.

    Raises PolicyError and ArtifactError where it cannot be made.
    """
    like = _like(suite, method, concept, registry)
    kept = like.manifest.made.get("preserve", []) if like else suite.words_beside([concept])
    wanted = {"name": concept, "prompts": [concept]}
    if like is not None and like.manifest.concept.replacement:
        wanted["replacement"] = like.manifest.concept.replacement
    made = plugins.method(method).make(host, wanted, out, preserve=kept, progress=False, **_settings(like))
    return _about(made, method, gate)


def few_at_once(
    host: Any, suite: Suite, method: str, concepts: list[str], out: Path, gate: str, n: int, seeds: int,
    registry: Registry | None = None,
) -> list[Case]:  # fmt: skip
    """Some concepts erased by one artifact that was told all their words, asked for as guards together are: a case for
    each set of seeds.

    Raises PolicyError for a method that makes no artifact of several concepts.
    """
    named = [{"name": one, "prompts": suite.words(one)} for one in concepts]
    settings = _settings(_like(suite, method, concepts[0], registry))
    made = plugins.method(method).make(
        host, named, out, name=f"{len(named)} concepts", preserve=suite.words_beside(concepts), progress=False,
        **settings,
    )  # fmt: skip
    policy, each = _about(made, method, gate), each_of(n, len(named))
    return [
        case(suite, method, concepts, policy, each, 2 * n, seed=seed, gated=gate == "prompt") for seed in range(seeds)
    ]


def crowd_at_once(
    host: Any, suite: Suite, method: str, crowd: Crowd, out: Path, gate: str, seeds: int,
    registry: Registry | None = None,
) -> list[Case]:  # fmt: skip
    """A crowd of the suite's objects erased at once by their names, and the rest kept: one prompt for each of them, and
    a case for each set of seeds.

    Raises PolicyError for a method that makes no artifact of several concepts, or has no room for them.
    """

    def one_of_each(objects: list[Object], at: int) -> list[Sample]:
        # At even places an object is asked for by its name.
        return [s for i, it in enumerate(objects) for s in suites.erased(suite, it.name, 1, at + i, start=2 * i)]

    concepts, kept = [it.name for it in crowd.erased], [it.name for it in crowd.kept]
    like = _like(suite, method, suite.concepts[0], registry)
    policy = _about(_with_room(host, method, concepts, kept, out, _settings(like)), method, gate)
    return [
        Case(
            method, concepts, policy, gate == "prompt", one_of_each(crowd.erased, at), [],
            one_of_each(crowd.kept, at + 20_000), at,
        )
        for at in range(0, seeds * 100_000, 100_000)
    ]  # fmt: skip


class Crowd(NamedTuple):
    """What is erased at once and what is kept."""

    erased: list[Object]
    kept: list[Object]


def crowds(suite: Suite) -> list[Crowd]:
    """Twenty of the suite's objects, and every other one; kept is the rest, without those whose names have an erased
    one in them, as "palm tree" has a tree.
    """
    half = suite.objects[::2]
    found = []
    for erased in ([half[:FEW]] if len(half) > FEW else []) + [half]:
        names = {it.name for it in erased}
        rest = [it for it in suite.objects if not any(stands_in(name, it.name) for name in names)]
        found.append(Crowd(erased, rest))
    return found


def _with_room(
    host: Any, method: str, concepts: list[str], kept: list[str], out: Path, settings: dict[str, Any]
) -> Artifact:
    """The artifact of all of them; where a null space has no room for them, with the first larger cut-off that has."""
    chosen = plugins.method(method)
    cutoffs = CUTOFFS if "cutoff" in chosen.MakeSettings.model_fields else (None,)
    for cutoff in cutoffs:
        more = settings if cutoff is None else {**settings, "cutoff": cutoff}
        try:
            return chosen.make(
                host, concepts, out, name=f"{len(concepts)} at once", preserve=kept, progress=False, **more
            )
        except PolicyError:
            if cutoff == cutoffs[-1]:
                raise
    raise AssertionError("unreachable")


def _like(suite: Suite, method: str, concept: str, registry: Registry | None) -> Artifact | None:
    """The artifact of the method that is there already, whose settings are taken over."""
    try:
        return (registry or default_registry()).load(artifact_of(suite, method, concept))
    except RegistryError:
        return None


def _settings(like: Artifact | None) -> dict[str, Any]:
    """What it was made with."""
    if like is None:
        return {}
    return known_of(plugins.method(like.manifest.method), like.manifest.made.get("settings", {}))


def _about(made: Artifact, method: str, gate: str) -> Policy:
    guard = {"method": method, "artifact": str(made.folder.absolute()), "gate": gate}
    return load_policy({"name": f"{method} {gate}", "on_violation": "black", "guards": [guard]})
