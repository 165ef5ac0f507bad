"""What one can do with what was found: a concept file that makers and policies read, and probes for a last look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save

from ..concept import Concept
from ..errors import PolicyError
from ..files import yaml
from ..files.atomic import write_bytes
from ..files.paths import slug
from ..plugins import method
from ..registry import Artifact, write_artifact
from ..version import __version__
from .checks import present, split

if TYPE_CHECKING:
    from torch import Tensor

    from ..finder import FoundConcept, PictureSet

FAMILY = "pictures"  # of probes that belong to no model: they look at any picture
BY_WORDS = "negative_guidance"  # the guard that needs no artifact and takes a concept in words
FEWEST = 8  # pictures with a concept, and without it
STEPS = 400


def concept_of(one: FoundConcept) -> Concept:
    """As a policy has it: the words that evoke it are its name's, where a word stands out."""
    return Concept(name=one.name, prompts=evoked(one) or [one.name])


def evoked(one: FoundConcept) -> list[str]:
    """The words that evoke it, none where no word stands out."""
    return list(one.evoked) or [word for word, _ in one.words[:1]]


def write_concepts(file: Path, found: Sequence[FoundConcept]) -> None:
    """A list that ``conceptguard make --concepts`` reads; left out are parts of others, and what no word
    stands out for: a number evokes nothing."""
    listed = [concept_of(one).model_dump() for one in found if evoked(one) and not one.part_of]
    write_bytes(file, yaml.dump(listed).encode())


def write_probe(
    out: Path,
    one: FoundConcept,
    pictures: PictureSet,
    seed: int,
    tick: Callable[[int, float], None] = lambda i, x: None,
    more: tuple[Tensor, Tensor] | None = None,
) -> Artifact:
    """A probe artifact in ``out/pictures/probe/NAME``, taught on the pictures that show the concept and on those that
    do not. more: what a person cut out of them as the concept, and as what it is not, uint8 [boxes, 3, side, side].

    Raises PolicyError where there are too few of either, ArtifactError where they cannot be told apart.
    """
    own, kept = pictures.pixels[present(one)], pictures.pixels[one.scores < split(one.scores) / 2]
    if more is not None:
        own, kept = torch.cat([own, more[0]]), torch.cat([kept, more[1]])
    if min(len(own), len(kept)) < FEWEST:
        raise PolicyError(
            f"'{one.name}' is in {len(own)} pictures and clearly not in {len(kept)}: a probe learns "
            f"from {FEWEST} or more of each; give more pictures"
        )
    probe: Any = method("probe")
    tensors, made = probe.taught(own, kept, one.name, STEPS, seed, tick)
    if more is not None and len(more[0]) + len(more[1]):
        made |= {"boxes": len(more[0]), "boxes_not": len(more[1])}
    concept = concept_of(one)
    fields = {
        "name": slug(concept.name), "method": "probe", "concept": concept.model_dump(), "base": {"family": FAMILY},
        "made": {"with": f"conceptguard {__version__}", "from": "conceptguard find", "seed": seed, **made},
        "settings": {},
    }  # fmt: skip
    return write_artifact(out / FAMILY / "probe" / slug(concept.name), fields, tensors)


def guards_of(out: Path, probes: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Entries of a policy in ``out`` whose last looks are these probes, by their places beside it: the folder may be
    moved as a whole."""
    at = out.resolve()
    return [{"method": "probe", "artifact": f"./{one.folder.resolve().relative_to(at).as_posix()}"} for one in probes]


def guards_by_words(found: Sequence[FoundConcept]) -> list[dict[str, Any]]:
    """Entries that guard what was found by its words alone, without an artifact; what has none is left out."""
    return [{"method": BY_WORDS, "concept": concept_of(one).model_dump()} for one in found if evoked(one)]


def write_policy(file: Path, guards: Sequence[dict[str, Any]]) -> None:
    """A policy of these entries."""
    write_bytes(file, yaml.dump({"name": "found", "on_violation": "flag", "guards": list(guards)}).encode())


def write_tokens(folder: Path, found: Sequence[FoundConcept]) -> list[Path]:
    """What was learnt for each concept, as ``load_textual_inversion`` reads it: one file each, <NAME>."""
    written = []
    for one in found:
        if one.token is not None:
            file = folder / f"{slug(one.name)}.safetensors"
            write_bytes(file, save({f"<{slug(one.name)}>": one.token.contiguous()}))
            written.append(file)
    return written


def named(found: Sequence[FoundConcept], name: str) -> FoundConcept:
    """A found concept by its name, or its number from 1. Raises PolicyError."""
    if name.isdigit() and 0 < int(name) <= len(found):
        return found[int(name) - 1]
    for one in found:
        if one.name == name:
            return one
    raise PolicyError(f"no concept '{name}' was found: there are {', '.join(one.name for one in found)}")
