"""Proof that a pipeline steps from what guards have seen: none of its scheduler's steps without a guarded prediction.

A denoiser that is replaced in the middle of a generation, or called past its hooks, leaves no mark where guards are.
It does where the pipeline goes on from it: in its scheduler's next step.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...errors import GuardError
from ...runtime.bank import running

if TYPE_CHECKING:
    from ...protocols import DrawingSession

_ABSENT = object()


@contextmanager
def proved(scheduler: Any, session: DrawingSession, inside: list[Any]) -> Iterator[None]:
    """Meanwhile a step to another timestep raises GuardError where no guard has seen a denoiser call since the last
    one. Several steps at one timestep are one: of frames, or of views of one picture.

    scheduler: the pipeline's, None where it has none
    inside: the proofs of generations that run, the innermost last: one in a callback of another has its own
    """
    if scheduler is None:
        yield
        return
    own, before = scheduler.step, vars(scheduler).get("step", _ABSENT)
    seen, last = session.steps, _ABSENT

    @functools.wraps(own)  # pipelines ask for its parameters
    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen, last
        if running.get() is session and inside[-1] is step:  # another pipeline may share the scheduler
            timestep = args[1] if len(args) > 1 else kwargs.get("timestep")
            if session.steps == seen and timestep is not last:
                raise GuardError(
                    f"a denoising step ran past policy '{session.policy.name}': the pipeline's denoiser was replaced, "
                    "or its hooks removed, in the middle of a generation; nothing was generated"
                )
            seen, last = session.steps, timestep
        return own(*args, **kwargs)

    scheduler.step = step
    inside.append(step)
    try:
        yield
    finally:
        inside.pop()
        if before is _ABSENT:
            vars(scheduler).pop("step", None)
        else:
            scheduler.step = before
