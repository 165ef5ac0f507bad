"""Promise 3: whatever goes wrong, no picture leaves, and the error names the guard, the cause and the mend."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..errors import GuardError
from .bench import HOOKS, Bench, leaves_alone
from .case import ContractBroken, NotApplicable, demand
from .kit_guards import Failing, FailingPrompt, offered, raising
from .traces import differences, snapshot

# In which the diffusers host calls a guard; the others belong to other hosts.
_CALLED = ("cross_attention", "encode_prompt", "condition", "predict_noise", "check_image")


def guard_that_raises(bench: Bench) -> None:
    """An exception in any hook of the method becomes a GuardError, at attach or while generating."""
    hooks = [hook for hook in bench.hooks if hook in _CALLED]
    if not hooks:
        raise NotApplicable(f"none of {', '.join(_CALLED)} is implemented, of {', '.join(HOOKS)}")
    before = snapshot(bench.pipe)
    for hook in hooks:
        with raising(bench.method, hook):
            demand_guard_error(partial(_generate, bench, bench.case.guard), bench.method.name, f"{hook} raises")
        left = differences(before, snapshot(bench.pipe))
        demand(not left, f"{hook} raised, and afterwards these are not what they were: {', '.join(left[:4])}")


def guard_beside_that_raises(bench: Bench) -> None:
    """The method does not hide another guard's failure, before it or after it in the policy."""
    bare = bench.bare(bench.case.unrelated[:1])
    failing_method = Failing if bench.denoises else FailingPrompt
    with offered(failing_method) as failing:
        for guards in ((bench.case.guard, failing), (failing, bench.case.guard)):
            demand_guard_error(partial(_generate, bench, *guards), failing_method.name, "another guard raises")
    with bench.attached():
        leaves_alone(bench, bench.pipe, bare, "after another guard's failure")


def _generate(bench: Bench, *guards: Any) -> None:
    with bench.attached(*guards):
        bench.generate(bench.pipe, [bench.case.unrelated[0]])


def demand_guard_error(run: Callable[[], None], name: str, when: str) -> None:
    """Demand that a run ends in a GuardError that names guard, cause and mend."""
    try:
        run()
    except GuardError as error:
        text = str(error)
        demand(name in text, f"{when}: the error does not name the guard: {text}")
        demand("ZeroDivisionError: on purpose" in text, f"{when}: the error does not name the cause: {text}")
        demand("mend it" in text, f"{when}: the error does not say what to do: {text}")
        return
    except Exception as error:
        raise ContractBroken(f"{when}: {type(error).__name__} instead of a GuardError: {error}") from error
    raise ContractBroken(f"{when}, and what it should have guarded leaves all the same")
