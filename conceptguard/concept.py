"""A concept: what must not appear, and what must stay beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .errors import PolicyError
from .files.paths import slug
from .text.words import stands_in

if TYPE_CHECKING:
    from .registry.manifest import Concept as Listed


class Concept(BaseModel):
    """What must not appear: its name, the prompts that evoke it, optionally what should appear instead."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    prompts: list[str] = Field(default_factory=list)
    replacement: str = ""

    @field_validator("prompts")
    @classmethod
    def _not_blank(cls, prompts: list[str]) -> list[str]:
        if not prompts or any(not p.strip() for p in prompts):
            raise ValueError("a concept needs prompts that evoke it, none of them blank, e.g. prompts: [pistol, gun]")
        return prompts


def as_concept(given: Concept | Mapping[str, Any] | str) -> Concept:
    """A concept from a name (which is then its only prompt), a mapping, or itself. Raises PolicyError."""
    if isinstance(given, Concept):
        found = given
    else:
        given = given.model_dump() if isinstance(given, BaseModel) else given
        try:
            found = Concept(**({"name": given, "prompts": [given]} if isinstance(given, str) else given))
        except ValidationError as error:
            raise PolicyError(f"concept: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    if not found.prompts:
        raise PolicyError(f"concept '{found.name}' has no prompts: say what evokes it, e.g. prompts: [{found.name}]")
    if not slug(found.name):
        raise PolicyError(f"concept '{found.name}' gives no usable name: use letters and digits")
    return found


def as_concepts(given: Sequence[Concept | Mapping[str, Any] | str]) -> list[Concept]:
    """Several concepts, each as for ``as_concept``. Raises PolicyError for none, and for two of one name."""
    found = [as_concept(one) for one in given]
    if not found:
        raise PolicyError("no concepts: name at least one")
    named: dict[str, Concept] = {}
    for one in found:
        other = named.setdefault(slug(one.name), one)
        if other is not one:
            raise PolicyError(f"two concepts are called '{other.name}' and '{one.name}': give one of them another name")
    return found


def together(concepts: Sequence[Concept], name: str) -> Concept:
    """All of them as one concept. Its replacement is theirs where it is the same for all."""
    prompts = list(dict.fromkeys(prompt for one in concepts for prompt in one.prompts))
    replacements = {one.replacement for one in concepts}
    return as_concept(
        {"name": name, "prompts": prompts, "replacement": replacements.pop() if len(replacements) == 1 else ""}
    )


def check_preserve(concept: Concept | Listed, preserve: Sequence[str]) -> None:
    """Raises PolicyError when something to keep names what is to be erased."""
    for text in preserve:
        for prompt in concept.prompts:
            if stands_in(prompt, text):
                raise PolicyError(
                    f"preserve '{text}' contains '{prompt}' of the concept '{concept.name}': it cannot be kept and "
                    "erased; take it out of one of them"
                )
