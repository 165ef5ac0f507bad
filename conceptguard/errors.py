"""Every error a user can meet: one line that says what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def printable(text: object) -> str:
    """What a stranger wrote, with a space for each sign that is not printed: it must not steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


def shown(text: object, most: int = 200) -> str:
    """What somebody wrote, as an error quotes it: on one line, nothing in it that steers a terminal, and no more than
    ``most`` letters of it."""
    line = " ".join(printable(text).split())
    return line if len(line) <= most else f"{line[:most].rstrip()} …"


def meant(word: str, known: Iterable[str], otherwise: str, cutoff: float = 0.6) -> str:
    """The hint about a word that nothing is called by: the nearest of those that are known, where one is near enough
    (``cutoff``, 0 to 1: how alike two words must be), and otherwise what there is."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"did you mean '{near[0]}'?" if near else otherwise


class ConceptGuardError(Exception):
    """Base of all errors raised on purpose; catching it catches every guard failure."""


class PolicyError(ConceptGuardError):
    """A policy file or dict that cannot be used; names the line where there is one."""


class RegistryError(ConceptGuardError):
    """Something asked of a registry that it does not have or cannot reach."""


class ArtifactError(ConceptGuardError):
    """An artifact that must not be used: truncated, altered, unsafe, or not finite."""


class BaseMismatch(ArtifactError):
    """An artifact that was made for another base model."""


class SessionError(ConceptGuardError):
    """A session used in a way it cannot be: attached twice, detached twice, a host it does not know."""


class GuardError(ConceptGuardError):
    """A guard failed while generating. Nothing was returned: no image, no text.

    The message names the guard, the cause and the mend.
    """


class Refused(ConceptGuardError):
    """A guard looked at the prompt or the image and the policy says to return nothing."""


class Clarification(Refused):
    """A prompt that could mean a guarded concept or something else: nothing was generated, but a question is asked.

    question: for the person who wrote the prompt; readings: the answers offered, each a phrase to say instead
    """

    def __init__(self, question: str, readings: Sequence[str]):
        super().__init__(f"{question} {' / '.join(readings)}")
        self.question, self.readings = question, list(readings)
