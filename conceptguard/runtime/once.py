"""What is asked once while it cannot change: as long as a policy is being attached, or a generation lasts.

Where a pipeline runs and what its encoder has read already take a walk through all of its modules or a call of the
encoder to find out, and every guard of a policy asks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
Answers = dict[Hashable, tuple[Any, Any]]
_answers: ContextVar[Answers | None] = ContextVar("answers", default=None)
_places: ContextVar[Answers | None] = ContextVar("places", default=None)


@contextmanager
def meanwhile() -> Iterator[None]:
    """From here to the end nothing is moved, cast or trained; answers of before count no more."""
    token = _answers.set({})
    try:
        yield
    finally:
        _answers.reset(token)


@contextmanager
def in_place() -> Iterator[None]:
    """From here to the end no model is moved, cast or compiled, however many generations there are: a search, of which
    each step is one. What is asked with ``place`` is then asked once in all of them."""
    token = _places.set({})
    try:
        yield
    finally:
        _places.reset(token)


def is_in_place() -> bool:
    """Whether a search is under way, see ``in_place``."""
    return _places.get() is not None


def once(about: Any, what: Hashable, ask: Callable[[], T], place: bool = False) -> T:
    """The answer about an object: one that was given meanwhile, or a new one. Outside of ``meanwhile`` always new.

    place: it holds as long as the object is not moved, cast or compiled, see ``in_place``
    """
    answers = _places.get() if place else None
    answers = _answers.get() if answers is None else answers
    if answers is None:
        return ask()
    key = (id(about), what)
    if key not in answers:
        answers[key] = (about, ask())  # which is kept, so that its id stays its own
    return answers[key][1]  # type: ignore[no-any-return]
