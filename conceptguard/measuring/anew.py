"""Artifacts that are made for a measurement, and thrown away after it.

Two things cannot be read off artifacts that ship: whether a method reaches words that nobody told it, since those that
ship are told all words there are; and what is left when half of all that a model draws is erased at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import plugins
from ..errors import PolicyError, RegistryError
from ..policy import Policy
from ..policy_file import load_policy
from ..registry import Artifact, Registry, default_registry
from ..text.words import stands_in
from . import suite as suites
from .cases import Case, artifact_of
from .suite import Object, Sample, Suite

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


def half_of_all(
    host: Any, suite: Suite, method: str, out: Path, gate: str, seeds: int, registry: Registry | None = None
) -> list[Case]:
    """Every other object of the suite erased at once by its name, and the rest kept: one prompt for each of them, and
    a case for each set of seeds.

    Raises PolicyError for a method that makes no artifact of several concepts, or has no room for them.
    """

    def one_of_each(objects: list[Object], at: int) -> list[Sample]:
        # At even places an object is asked for by its name.
        return [s for i, it in enumerate(objects) for s in suites.erased(suite, it.name, 1, at + i, start=2 * i)]

    erased, kept = halves(suite)
    like = _like(suite, method, suite.concepts[0], registry)
    made = _with_room(host, method, [it.name for it in erased], [it.name for it in kept], out, _settings(like))
    policy, concepts = _about(made, method, gate), [it.name for it in erased]
    return [
        Case(
            method, concepts, policy, gate == "prompt", one_of_each(erased, at), [], one_of_each(kept, at + 20_000), at
        )
        for at in range(0, seeds * 100_000, 100_000)
    ]


def halves(suite: Suite) -> tuple[list[Object], list[Object]]:
    """What is erased and what is kept: every other object, without those to keep whose names have an erased one in
    them, as "palm tree" has a tree.
    """
    erased, kept = suite.objects[::2], suite.objects[1::2]
    return erased, [it for it in kept if not any(stands_in(one.name, it.name) for one in erased)]


def _with_room(
    host: Any, method: str, concepts: list[str], kept: list[str], out: Path, settings: dict[str, Any]
) -> Artifact:
    """The artifact of all of them; where a null space has no room for them, with the first larger cut-off that has."""
    chosen = plugins.method(method)
    cutoffs = CUTOFFS if "cutoff" in chosen.MakeSettings.model_fields else (None,)
    for cutoff in cutoffs:
        more = settings if cutoff is None else {**settings, "cutoff": cutoff}
        try:
            return chosen.make(host, concepts, out, name="half", preserve=kept, progress=False, **more)
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
    return dict(like.manifest.made.get("settings", {})) if like else {}


def _about(made: Artifact, method: str, gate: str) -> Policy:
    guard = {"method": method, "artifact": str(made.folder.absolute()), "gate": gate}
    return load_policy({"name": f"{method} {gate}", "on_violation": "black", "guards": [guard]})
