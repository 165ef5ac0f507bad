"""What guards without training know of a concept: its phrases."""

from __future__ import annotations

from collections.abc import Sequence

from conceptguard.errors import GuardError, PolicyError
from conceptguard.generation.denoising import Conditions
from conceptguard.method import Method


def phrases_of(method: Method) -> tuple[str, ...]:
    """The prompts of the guard's concept. Raises PolicyError when it has none."""
    return tuple(method.own_concept().prompts)


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
