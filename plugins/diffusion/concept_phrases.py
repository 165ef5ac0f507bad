"""What guards without training know of a concept: its phrases."""

from __future__ import annotations

from collections.abc import Sequence

from conceptguard.errors import GuardError, PolicyError
from conceptguard.generation.denoising import Conditions
from conceptguard.method import Method
from conceptguard.runtime.gates import Gate, GateBank
from conceptguard.text.words import any_of


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


def opened(method: Method, conditions: Conditions) -> list[int]:
    """The rows whose gate is open. Raises as ``check_read`` of them."""
    rows = [row for row in conditions.towards if method.act.gates[row]]
    check_read(method, conditions, rows)
    return rows


class Free:
    """Prompts without the concept of a guard, which reads them as its gate does.

    gate: the guard's own; one that is always open tells nothing, and words alone decide
    """

    def __init__(self, method: Method, gate: Gate):
        self.concept = method.own_concept()
        self._read = method.host.read
        self._phrases = any_of(self.concept.prompts)
        self._bank = GateBank([gate], self._read, method.host.encoding_cache()) if gate.prompts else None

    def __call__(self, text: str, instead: str, otherwise: str, words: bool = False) -> str:
        """The text with ``instead`` in the place of the concept's phrases where it is free of the concept then;
        ``otherwise`` alone where it is not.

        words: before that, with ``instead`` in the place of the one word without which it is free
        """
        swapped, count = self._phrases.subn(lambda _: instead, text)
        swapped = " ".join(swapped.split())
        if self._bank is None:
            return swapped if count else otherwise
        if self._is([swapped])[0]:
            return swapped
        said = swapped.split() if words else []
        without = [" ".join([*said[:i], instead, *said[i + 1 :]]) for i in range(len(said))]
        return next((one for one, free in zip(without, self._is(without)) if free), otherwise)

    def _is(self, texts: list[str]) -> list[bool]:
        """Whether texts are free of the concept."""
        if not texts or self._bank is None:
            return []
        encoded = self._read(texts)
        return [not gate for gate in self._bank(encoded.embeds, encoded.ids)[:, 0].tolist()]
