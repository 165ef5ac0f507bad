"""Promise 1: an unrelated prompt pays nothing. And the promise before all others: the guard does act."""

from __future__ import annotations

import torch

from ..policy_file import load_policy
from .bench import Bench, acted, leaves_alone
from .case import ContractBroken, demand


def it_acts(bench: Bench) -> None:
    """On the prompt that opens it, the guard changes or refuses the picture. A do-nothing guard ends here."""
    bare = bench.bare([bench.case.opens])
    demand(acted(bare, bench.alone(bench.case.opens)), f"{bench.case.opens!r} gives what it gives unguarded")


def no_guard_tax(bench: Bench) -> None:
    """Unrelated prompts give the unguarded pictures bit by bit, alone, together, and right after one that opened."""
    unrelated = bench.case.unrelated
    alone, together = bench.bare(unrelated[:1]), bench.bare(unrelated)
    with bench.attached():
        leaves_alone(bench, bench.pipe, alone, "guarded")
        both = bench.attempt(unrelated)
        demand(both is not None and torch.equal(both, together), f"the unrelated prompts {unrelated!r} change")
        bench.attempt([bench.case.opens])
        leaves_alone(bench, bench.pipe, alone, f"after {bench.case.opens!r}")


def unknown_setting_refused(bench: Bench) -> None:
    """A misspelt setting is an error at once: a guard must never run with other settings than the policy says."""
    from ..errors import PolicyError

    try:
        load_policy(bench.policy({**bench.case.guard, "no_such_setting": 1}))
    except PolicyError as error:
        demand("no_such_setting" in str(error), f"the error does not name the setting: {error}")
        return
    raise ContractBroken("a setting that the method does not have is accepted")
