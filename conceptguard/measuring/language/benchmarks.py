"""Columns of published benchmarks for the rows of a language suite, against the suite's model that never knew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .evaluate import Contestant, Row, Tick
from .muse import auc, muse
from .ort import ort
from .tofu import ratios, tofu

if TYPE_CHECKING:
    from .suite import LanguageSuite


class Benchmarks:
    """Some of "tofu", "muse" and "ort". What they compare with is asked once, of the model ``retain`` that never knew.

    tick: told 1 for each benchmark of each row, and for each of that model
    """

    def __init__(self, names: Sequence[str], retain: Any, suite: LanguageSuite, tick: Tick = lambda n: None):
        self.suite, self._tick, self._ort = suite, tick, "ort" in names
        never = Contestant("retain")
        self._ratios = ratios(retain, suite, never) if "tofu" in names else None
        self._auc = auc(retain, suite, never) if "muse" in names else None
        tick(len(names))

    def of(self, pair: Any, one: Contestant) -> Row:
        """The columns of a contestant; see ``tofu``, ``muse`` and ``ort``."""
        found: Row = {}
        if self._ratios is not None:
            found |= tofu(pair, self.suite, one, self._ratios)
            self._tick(1)
        if self._auc is not None:
            found |= muse(pair, self.suite, one, self._auc)
            self._tick(1)
        if self._ort:
            found |= ort(pair, self.suite, one)
            self._tick(1)
        return found
