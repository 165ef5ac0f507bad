"""Sessions that one pipeline can be under, and what its hooks know under each: one is attached, others are chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...runtime.bank import running
from ...runtime.choice import choice

if TYPE_CHECKING:
    from ...protocols import DrawingSession
    from .adapters import Adapters
    from .callers import Callers
    from .prompts import Memory


@dataclass
class Side:
    """One session's own. memory: of what was encoded under it; adapters: by component; callers: whose loops it is in"""

    session: DrawingSession
    memory: Memory
    callers: Callers
    adapters: dict[str, Adapters] = field(default_factory=dict)


class Sides:
    """Those of one host. The first that is added is the attached one."""

    def __init__(self, host: object):
        self._host = host
        self._of: dict[int, Side] = {}

    def add(self, side: Side) -> None:
        """It can be chosen from now on."""
        self._of[id(side.session)] = side

    def pop(self, session: object) -> Side | None:
        """It cannot any more."""
        return self._of.pop(id(session), None)

    def pop_all(self) -> list[Side]:
        """None of them can."""
        found = list(self._of.values())
        self._of.clear()
        return found

    def beside(self, side: Side) -> list[Side]:
        """All others."""
        return [other for other in self._of.values() if other is not side]

    def asked(self) -> Side | None:
        """The side that a new call is on: what was chosen in this thread or task, else the attached one; None where
        nothing is attached, or while a session is being made. Raises SessionError where the chosen one is gone."""
        chosen = choice(self._host)
        if chosen is None:
            return next(iter(self._of.values()), None)
        if chosen.session is None:
            return None
        found = self._of.get(id(chosen.session))
        if found is None:
            chosen.session.demand_attached()
        return found

    def at_work(self) -> Side | None:
        """The side of the generation that runs; outside of one, as ``asked``."""
        return self._of.get(id(running.get())) or self.asked()
