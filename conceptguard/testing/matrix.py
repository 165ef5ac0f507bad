"""Which method keeps which promise in which host: the contract kit, run for every pair, as rows of a table.

A cell is a method in a host, with the case that the kit judges it by. A host that refuses the method has said so in its
own words, which are the cell's; every other outcome comes from the kit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConceptGuardError
from .bench import Bench
from .case import Case, ContractBroken, NotApplicable, TextCase
from .contract import contract_checks, promises
from .text_bench import TextBench

KEPT, BROKEN, NONE, REFUSED = "kept", "broken", "does not apply", "refused"


@dataclass(frozen=True)
class Cell:
    """One method in one host.

    case: makes the case; raises NotApplicable, with the reason, where there can be none
    text: whether it makes a TextCase
    without: checks that cannot be run here, and why
    bench: what judges the case, see ``contract_checks``
    """

    method: str
    host: str
    case: Callable[[], Case | TextCase]
    text: bool = False
    without: Mapping[str, str] = field(default_factory=dict)
    bench: Callable[[Any], Any] | None = None


def probe(cell: Cell, *, slow: bool = False, only: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """One row for each promise: ``result`` (kept, broken, does not apply), how many checks were run, and ``why`` not.

    slow: with the checks that take a minute; only: these checks, where some are named. A host that refuses the method
    gives one row without a promise.
    """
    head = {"method": cell.method, "host": cell.host}
    try:
        case = cell.case()
        if said := _refusal(cell, case):
            return [{**head, "promise": None, "result": REFUSED, "checks": 0, "why": said}]
    except NotApplicable as reason:
        return [{**head, "promise": None, "result": NONE, "checks": 0, "why": str(reason)}]
    except ConceptGuardError as error:  # there can be no artifact for this host
        return [{**head, "promise": None, "result": REFUSED, "checks": 0, "why": str(error)}]
    of = promises(text=cell.text)
    found: dict[int, list[tuple[str, str, str]]] = {}
    for name, check in contract_checks(case, slow=slow, text=cell.text, bench=cell.bench):
        if not only or name in only:
            found.setdefault(of[name], []).append((name, *_outcome(check, cell.without.get(name))))
    return [{**head, "promise": promise, **_together(outcomes)} for promise, outcomes in sorted(found.items())]


def _refusal(cell: Cell, case: Case | TextCase) -> str:
    """What the host says where it refuses the method, at attach or before anything is generated; else nothing.

    An error that the method did not mean is none: the kit will find it.
    """
    kind: Any = cell.bench or (TextBench if isinstance(case, TextCase) else Bench)
    bench = kind(case)
    try:
        with bench.attached():
            bench.attempt([case.opens])
    except ConceptGuardError as error:
        meant = error.__cause__ is None or isinstance(error.__cause__, ConceptGuardError)
        return str(error) if meant else ""
    return ""


def _outcome(check: Callable[[], None], without: str | None) -> tuple[str, str]:
    if without is not None:
        return NONE, without
    try:
        check()
    except NotApplicable as reason:
        return NONE, str(reason)
    except ContractBroken as error:
        return BROKEN, str(error)
    except Exception as error:
        return BROKEN, f"{type(error).__name__}: {error}"
    return KEPT, ""


def _together(outcomes: list[tuple[str, str, str]]) -> dict[str, Any]:
    """A promise is broken with one of its checks, and does not apply where none of them does."""
    results = {result for _, result, _ in outcomes}
    result = BROKEN if BROKEN in results else KEPT if KEPT in results else NONE
    why = "; ".join(f"{name}: {' '.join(told.split())}" for name, how, told in outcomes if told and how != KEPT)
    return {"result": result, "checks": sum(how != NONE for _, how, _ in outcomes), "why": why}
