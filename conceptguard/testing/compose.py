"""Promise 6: guards combine in any order to the same result; where order matters, it is declared.

A method whose order matters declares it with pluggy's ``tryfirst`` or ``trylast``; the policy's order then makes no
difference, which is what is tested.
"""

from __future__ import annotations

from .bench import Bench, acted, close
from .case import demand
from .kit_guards import Beside, offered


def any_order(bench: Bench) -> None:
    """Beside another guard, before or after it: the same picture, with both in it."""
    prompt, mine = [bench.case.opens], bench.case.guard
    with offered(Beside) as beside:
        results = []
        for guards in ((mine, beside), (beside, mine), (beside,)):
            with bench.attached(*guards):
                results.append(bench.attempt(prompt))
    only_mine = bench.alone(bench.case.opens)
    first, second, only_beside = results
    demand(close(first, second), "the order of two guards in the policy changes the picture, undeclared")
    if first is None or only_mine is None or only_beside is None:
        demand(first is only_mine, "beside another guard a refused prompt passes")
        return
    demand(acted(only_beside, first), "beside another guard the guard does not act")


def twice(bench: Bench) -> None:
    """The guard twice in one policy runs twice, without an error and without a trace in unrelated prompts."""
    from .bench import leaves_alone

    bare = bench.bare(bench.case.unrelated[:1])
    with bench.attached(bench.case.guard, bench.case.guard) as session:
        leaves_alone(bench, bench.pipe, bare, "the guard twice in one policy")
        demand(len(session.receipt.acts) == 2, "two guards in the policy, another number in the receipt")
