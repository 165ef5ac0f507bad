"""What guards without training know of a concept: its phrases."""

from __future__ import annotations

from collections.abc import Sequence

from conceptguard.concept import Concept
from conceptguard.errors import GuardError, PolicyError
from conceptguard.generation.denoising import Conditions
from conceptguard.method import Method
from conceptguard.registry.manifest import Concept as Listed


def concept_of(method: Method) -> Concept | Listed:
    """The concept of a guard. Raises PolicyError when it has no prompts: it would guard nothing, silently."""
    concept = method.guard.concept or (method.artifact.manifest.concept if method.artifact else None)
    if concept is None or not concept.prompts:
        name = concept.name if concept else "..."
        raise PolicyError(
            f"guard '{method.guard.label}': the concept has no prompts, so nothing would be guarded: "
            f"give concept: {{name: {name}, prompts: [a phrase, another one]}}"
        )
    return concept


def phrases_of(method: Method) -> tuple[str, ...]:
    """The prompts of the guard's concept. Raises PolicyError when it has none."""
    return tuple(concept_of(method).prompts)


def as_one(method: Method, phrases: Sequence[str], before: str = "") -> str:
    """All phrases in one text that the encoder reads as a whole, after ``before``. Raises PolicyError if it cannot."""
    text = ", ".join([*([before] if before else []), *phrases])
    count = len(method.host.tokens([text], whole=True)[0])
    if count > method.host.window:
        raise PolicyError(
            f"guard '{method.guard.label}': {len(phrases)} phrases{' and the negative prompt' if before else ''} are "
            f"{count} tokens together, the text encoder reads {method.host.window}: give fewer, or several guards"
        )
    return text


def check_read(method: Method, conditions: Conditions, rows: Sequence[int]) -> None:
    """Raises GuardError where one of these rows has no text, for a guard that reads the words of prompts."""
    if any(conditions.prompts[row] is None for row in rows):
        raise GuardError(
            f"guard '{method.guard.label}' reads the words of a prompt, and a condition came as embeddings that were "
            "not encoded under it: give texts, or encode with the pipeline's encode_prompt after attaching"
        )
