"""Another scheduler for a while, by the name of its class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import PolicyError, shown


@contextmanager
def scheduled(pipe: Any, name: str) -> Iterator[None]:
    """The pipeline samples with this class of diffusers', of its own scheduler's settings; ``model`` leaves it its own.

    Raises PolicyError for a class that is none, or does not take the model.
    """
    if name == "model" or name == type(pipe.scheduler).__name__:
        yield
        return
    import diffusers

    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise PolicyError(f"scheduler '{shown(name)}': diffusers has no such class; write model for the model's own")
    own = pipe.scheduler
    if kind not in own.compatibles:
        raise PolicyError(f"scheduler '{name}' does not fit a model that is sampled with {type(own).__name__}")
    pipe.scheduler = kind.from_config(own.config)
    try:
        yield
    finally:
        pipe.scheduler = own
