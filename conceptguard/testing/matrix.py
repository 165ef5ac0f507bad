"""Which method keeps which promise in which host: the contract kit, run for every pair, as rows of a table.

A cell is a method in a host, with the case that the kit judges it by. A host that refuses the method when it is
attached has said so in its own words, which are the cell's; every other outcome comes from the kit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConceptGuardError
from ..sessions.attach import attach
from .bench import embedded_model
from .case import Case, ContractBroken, NotApplicable, TextCase
from .contract import contract_checks, promises
from .text_bench import embedded_language_model

KEPT, BROKEN, NONE, REFUSED = "kept", "broken", "does not apply", "refused"


@dataclass(frozen=True)
class Cell:
    """One method in one host.

    case: makes the case; raises NotApplicable, with the reason, where there can be none
    text: whether it makes a TextCase
    without: checks that cannot be run here, and why
    """

    method: str
    host: str
    case: Callable[[], Case | TextCase]
    text: bool = False
    without: Mapping[str, str] = field(default_factory=dict)


def probe(cell: Cell, *, slow: bool = False, only: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """One row for each promise: ``result`` (kept, broken, does not apply), how many checks were run, and ``why`` not.

    slow: with the checks that take a minute; only: these checks, where some are named. A host that refuses the method
    gives one row without a promise.
    """
    head = {"method": cell.method, "host": cell.host}
    try:
        case = cell.case()
        _try(case)
    except (ConceptGuardError, NotApplicable) as error:
        refused = REFUSED if isinstance(error, ConceptGuardError) else NONE
        return [{**head, "promise": None, "result": refused, "checks": 0, "why": str(error)}]
    of = promises(text=cell.text)
    found: dict[int, list[tuple[str, str, str]]] = {}
    for name, check in contract_checks(case, slow=slow, text=cell.text):
        if not only or name in only:
            found.setdefault(of[name], []).append((name, *_outcome(check, cell.without.get(name))))
    return [{**head, "promise": promise, **_together(outcomes)} for promise, outcomes in sorted(found.items())]


def _try(case: Case | TextCase) -> None:
    """Attach the guard once, and take it off again. Raises what the host raises."""
    load = case.load or (embedded_language_model if isinstance(case, TextCase) else embedded_model)
    target = load()
    session = attach(tuple(target) if isinstance(case, TextCase) else target, {"guards": [dict(case.guard)]})
    session.detach()


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
