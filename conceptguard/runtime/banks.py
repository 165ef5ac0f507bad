"""The banks of one session: what is beside all layers of a model.

A compiled model has two graphs: the bare one, and one for anything open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import BaseMismatch, GuardError
from .alike import Alike, Stack, stacked
from .bank import Bank, OpenRows
from .lowrank import Factors, LayerIndex, Terms
from .once import is_in_place


@dataclass
class Banks:
    """The banks of one session: build, open by gates, verify that what was opened also ran, detach.

    traced: the model is compiled. All banks then join their layers together, so that a graph is traced once for
    anything open, whatever it is, and the bare one remains for nothing open.
    again: how many of the last rows of a call some layers are given a second time or alone, for gates set from now on
    """

    layers: LayerIndex
    terms: list[Terms]
    session: object
    traced: bool = False
    again: int = 0
    banks: dict[str, Bank] = field(default_factory=dict)

    def __post_init__(self) -> None:
        by_layer: dict[str, dict[int, Factors]] = {}
        alike: dict[tuple[int, torch.dtype], dict[int, Alike]] = {}
        for guard, terms in enumerate(self.terms):
            if terms.whole:
                raise BaseMismatch(
                    f"a guard changes whole tensors ({next(iter(terms.whole))}), which is for plain modules: this "
                    "model takes terms beside linear and convolution layers"
                )
            if isinstance(terms.factors, Alike):
                alike.setdefault((id(terms.factors.layout), terms.factors.flat.dtype), {})[guard] = terms.factors
                continue
            for name, factors in terms.factors.items():
                by_layer.setdefault(name, {})[guard] = factors
        stacks: dict[str, list[Stack]] = {}
        for found in alike.values():
            for name, stack in stacked(found):
                stacks.setdefault(name, []).append(stack)
        names = dict.fromkeys([*by_layer, *stacks])
        self.coupled = frozenset(i for i, t in enumerate(self.terms) if t.coupled)
        self._of: dict[str, list[Bank]] = {}
        self._kept: dict[str, Tensor | None] = {}  # the gates that were open last, where they may come again
        self._open: set[str] = set()
        try:
            for name in names:
                if name not in self.layers:
                    raise BaseMismatch(f"the base model has no layer {name}: use an artifact made for this base model")
                bank = Bank(name, self.layers[name], by_layer.get(name, {}), self.session, stacks.pop(name, ()))
                self.banks[name] = bank
                self._of.setdefault(name.split(".", 1)[0], []).append(bank)
        except Exception:
            self.detach()
            raise

    @property
    def nbytes(self) -> int:
        """Bytes of all stacked factors."""
        return sum(bank.nbytes for bank in self.banks.values())

    def of(self, prefix: str) -> Sequence[Bank]:
        """The banks of one component."""
        return self._of.get(prefix, ())

    def prefixes(self) -> set[str]:
        """The components that carry terms, e.g. {"unet", "text_encoder"}."""
        return set(self._of)

    def set(self, prefix: str, gates: Tensor | None) -> None:
        """Open gates [rows, guards] at every layer of one component; None closes them."""
        guards = [] if gates is None else gates.any(dim=0).nonzero()[:, 0].tolist()
        if not guards and prefix not in self._open:
            return
        known: dict[Any, OpenRows] = {}
        # Gates that a gradient passes are opened anew, though a picture of the same prompt had them as they are.
        before = self._kept.get(prefix) if gates is not None and not gates.requires_grad and is_in_place() else None
        alike = before is not None and gates is not None and torch.equal(before, gates)
        for bank in self._of.get(prefix, ()):
            if guards and gates is not None:
                bank.again = self.again
                if not (alike and bank.reopen()):
                    bank.set(gates, guards, self.coupled, known)
                if self.traced:
                    bank.join()
            else:
                bank.close()
        if guards and gates is not None:
            # A search closes its gates after each step, and opens them as they were in the next.
            self._kept[prefix] = gates if is_in_place() and not gates.requires_grad else None
        (self._open.add if guards else self._open.discard)(prefix)

    def start(self, prefix: str) -> None:
        """Before a forward pass: nothing has run yet."""
        if prefix in self._open:
            for bank in self._of.get(prefix, ()):
                bank.calls = 0

    def verify(self, prefix: str, resting: Callable[[str], bool] = lambda name: False) -> None:
        """After a forward pass: every open layer must have run (fused projections, for one, skip theirs).

        resting: whether a layer of this name was left out on purpose, its weight as well as its terms
        """
        if prefix not in self._open:
            return
        for bank in self._of.get(prefix, ()):
            if bank.open is not None and not bank.calls and not resting(bank.name):
                raise GuardError(
                    f"layer {bank.name} did not run, so its guard had no effect: undo what replaced it "
                    "(pipe.unfuse_qkv_projections(), for one) or attach after replacing it"
                )

    def detach(self) -> None:
        """Leave every layer as it was."""
        for bank in self.banks.values():
            bank.detach()
        self.banks.clear()
        self._of.clear()
        self._open.clear()
