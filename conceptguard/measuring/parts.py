"""Cases as batches of pictures, which anybody may draw in any order; each is drawn once, whoever is judged by it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ..policy import Policy
from ..sessions.attach import attach
from .cases import Case
from .samples import Pictures, Recipe, Tick, batches, joined, make, make_groups_once, weights_digest
from .suite import Sample


class Drawing:
    """A pipeline that draws now under one policy, now under another or none: attached once for all in a row. Close it,
    or use it as a context manager, to have it without a guard again.
    """

    def __init__(self, pipe: Any):
        self.pipe, self.device = pipe, str(pipe.device)
        self._policy: Policy | None = None
        self._session: Any = None

    def under(self, policy: Policy | None) -> Any:
        """The session; None where there is no policy. Raises what attaching raises."""
        if policy != self._policy:
            self.close()
            if policy is not None:
                self._session = attach(self.pipe, policy)
            self._policy = policy
        return self._session

    @cached_property
    def weights(self) -> str:
        """Their digest, without a guard."""
        self.under(None)
        return weights_digest(self.pipe)

    def close(self) -> None:
        """Detach."""
        session, self._policy, self._session = self._session, None, None
        if session is not None:
            session.detach()

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(frozen=True)
class Part:
    """A batch. policy: None for unguarded pictures, which are kept in the cache."""

    policy: Policy | None
    samples: tuple[Sample, ...]
    recipe: Recipe

    def __len__(self) -> int:
        return len(self.samples)


class Drawn(NamedTuple):
    """A batch's pictures, and how long they took."""

    pictures: Pictures
    seconds: float


def draw_part(own: Drawing, part: Part, tick: Tick) -> Drawn:
    """The pictures of one batch."""
    begin = time.perf_counter()
    own.under(part.policy)
    if part.policy is None:
        (made,) = make_groups_once(own.pipe, [part.samples], part.recipe, tick, own.weights)
    else:
        made = make(own.pipe, part.samples, part.recipe, tick)
    return Drawn(made, time.perf_counter() - begin)


class Work:
    """Cases as parts: the unguarded ones first, then those of one policy after the other."""

    def __init__(self, cases: Sequence[Case], recipe: Recipe):
        self.cases, self.parts, self._recipe = cases, list[Part](), recipe
        self._bare: dict[tuple[Sample, ...], int] = {}
        self._before = [[self._add(None, group) for group in one.groups] for one in cases]
        self._after = [[self._add(policy, group) for policy, groups in one.drawn for group in groups] for one in cases]

    def _add(self, policy: Policy | None, group: Sequence[Sample]) -> list[int]:
        """Which parts a group is made of."""
        found = []
        for samples in map(tuple, batches(group, self._recipe.batch)):
            number = self._bare.get(samples) if policy is None else None
            if number is None:
                number = len(self.parts)
                self.parts.append(Part(policy, samples, self._recipe))
            if policy is None:
                self._bare[samples] = number
            found.append(number)
        return found

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def of(self, case: int, found: Mapping[int, Drawn]) -> tuple[list[Pictures], list[Pictures], float, float]:
        """Of one case, the pictures of each of its groups before and after, the seconds of those after, and of all."""
        before, after = ([joined([found[i].pictures for i in group]) for group in groups] for groups in (
            self._before[case], self._after[case]))  # fmt: skip
        first, second = (sum(found[i].seconds for group in groups for i in group) for groups in (
            self._before[case], self._after[case]))  # fmt: skip
        return before, after, second, first + second
