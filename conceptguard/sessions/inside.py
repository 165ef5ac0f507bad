"""What the guards of one policy do inside of a language model, from the prompts of a generation to its last token.

Gates are set for the rows of each call before it runs: beams and several texts of one prompt share its gate, a row that
is said again has its own. Where nothing opens, nothing stands in the model's way, this module included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import GuardError
from ..runtime.banks import Banks
from ..runtime.gates import Gate
from ..runtime.layer_patch import LayerPatch, layer_patch
from ..runtime.lowrank import Terms

if TYPE_CHECKING:
    from ..host import TextHost
    from ..runtime.within import Change, Within

_PREFIX = "model"
_GIVEN = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds")


class _Changed:
    """A function of what one module gives, on the rows that are open."""

    def __init__(self, module: nn.Module, change: Change):
        self._patch: LayerPatch = layer_patch(module)
        self._change = change
        self._gates = torch.zeros(0)
        self.calls = 0

    def set(self, gates: Tensor | None) -> None:
        """gates: [rows]; None closes it."""
        if gates is None or not gates.any():
            self._patch.part(self)
        else:
            self._gates = gates
            self._patch.join(self)

    @property
    def open(self) -> bool:
        return self in self._patch.addends

    def instead(self, x: Any) -> None:
        """What a module gave is needed to change it."""

    def add_to(self, x: Any, y: Any) -> None:
        """Change what the module gave, in place."""
        states = y[0] if isinstance(y, tuple) else y
        if len(states) != len(self._gates):
            raise GuardError(
                f"a layer gave {len(states)} rows where the prompts have {len(self._gates)}: something split the "
                "batch; generate without batch splitting"
            )
        self.calls += 1
        rows = self._gates.nonzero()[:, 0].to(states.device)
        gates = self._gates[self._gates != 0].to(states.device, states.dtype)
        states[rows] = self._change(states[rows], gates).to(states)


class Inside:
    """Of one session. Raises BaseMismatch for a layer that the model does not have, or has in another shape."""

    def __init__(self, session: object, host: TextHost, found: Sequence[Within]):
        self._host, self.found = host, list(found)
        self._changes: list[tuple[int, str, _Changed]] = []
        terms = [Terms(one.owner, one.factors, Gate()) for one in self.found]
        for guard, one in enumerate(self.found):
            for name, change in one.changes.items():
                self._changes.append((guard, name, _Changed(host.part(name), change)))
        self.banks = Banks(host.layers(), terms, session)
        self._gates = torch.zeros(0, len(self.found))  # of every prompt
        self._of: list[int] = []  # the prompts of a call's rows
        self._set: list[int] | None = None
        self._rows: list[int] | None = None  # the same of the running call's texts
        self._seen: list[int] = []
        self.calls = 0

    def gates(self, ids: Sequence[Sequence[int] | None], texts: Sequence[str | None]) -> Tensor:
        """[prompts, guards], one prompt at a time: what is made of it must not depend on what else is asked."""
        found = [[float(one.opens(own, text)) for one in self.found] for own, text in zip(ids, texts)]
        return torch.tensor(found).reshape(len(found), len(self.found))

    @contextmanager
    def opened(self, gates: Tensor, of: Sequence[int], seen: Sequence[int] = ()) -> Iterator[None]:
        """One generation. gates: [prompts, guards]; of: the prompt of each row that is asked; seen: how many places of
        each prompt are for what pictures become, where that is known.

        Raises GuardError where what was open did not run.
        """
        self.calls = 0
        self._seen = list(seen)
        if not gates.any():
            yield
            return
        self._gates, self._of, self._set = gates, list(of), None
        handles = [module.register_forward_pre_hook(self._called, with_kwargs=True) for module in self._host.entries()]
        for looks, reads in self._host.looks():
            handles.append(looks.register_forward_pre_hook(self._looked, with_kwargs=True))
            handles.append(reads.register_forward_pre_hook(self._reads))
        try:
            yield
            self._verify()
        finally:
            for handle in handles:
                handle.remove()
            self._open(None)

    @contextmanager
    def alone(self, prompt: int) -> Iterator[None]:
        """Meanwhile all rows answer one prompt."""
        before, self._of = self._of, [prompt]
        try:
            yield
        finally:
            self._of = before

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A call of the model begins."""
        given = next((kwargs[name] for name in _GIVEN if kwargs.get(name) is not None), args[0] if args else None)
        if given is None:
            given = kwargs["encoder_outputs"][0]
        rows, asking = len(given), self._host.asking()
        if asking == "nothing":  # a guard reads something of its own, or drafts are made
            self._rows = None
            self._open(None)
            return
        if asking is not None:
            rows = len(asking[1])
            each = max(asking[0] // len(self._of), 1)
            self._rows = [self._of[min(row // each, len(self._of) - 1)] for row in asking[1]]
            self._open(self._rows)
            return
        if rows % len(self._of):
            raise GuardError(
                f"the model was called with {rows} rows where {len(self._of)} were asked: something split the batch; "
                "generate without batch splitting"
            )
        each = rows // len(self._of)
        self.calls += 1
        self._rows = [prompt for prompt in self._of for _ in range(each)]
        self._open(self._rows)

    def _looked(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The picture tower is called, before the model or by it, with rows that are pictures."""
        if self._host.asking() == "nothing":
            self._open(None)
            return
        pictures = len(next(one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)))
        places = [self._seen[prompt] for prompt in self._of] if self._seen else [1] * len(self._of)
        rows, total = len(places), sum(places)
        if pictures % rows == 0 and len(set(places)) == 1:
            each = [pictures // rows] * rows
        elif total % pictures == 0 and not any(one % (total // pictures) for one in places):
            each = [one // (total // pictures) for one in places]
        else:
            raise GuardError(
                f"{pictures} pictures, and nobody can tell which of {rows} prompts each belongs to: generate for one "
                "prompt at a time"
            )
        self._open([prompt for prompt, n in zip(self._of, each) for _ in range(n)])

    def _reads(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """The text model is called, whose rows are texts again."""
        self._open(self._rows)

    def _open(self, prompts: list[int] | None) -> None:
        if prompts is not None and prompts == self._set:
            return
        self._set = prompts
        gates = None if prompts is None else self._gates[prompts]
        self.banks.set(_PREFIX, gates)
        for guard, _, changed in self._changes:
            changed.set(None if gates is None else gates[:, guard])

    def _verify(self) -> None:
        self.banks.verify(_PREFIX)
        for _, name, changed in self._changes:
            if changed.open and not changed.calls:
                raise GuardError(f"layer {name} did not run, so its guard had no effect: detach, and attach anew")
        if not self.calls:
            raise GuardError(
                "generate() called the model past its own forward, where no guard stands: use it without "
                "custom_generate"
            )

    def layers(self, guard: int) -> int:
        """How many layers carry what one guard does."""
        return len(self.found[guard].factors) + len(self.found[guard].changes)

    def detach(self) -> None:
        """Leave every layer as it was."""
        self._open(None)
        self.banks.detach()
        self._changes.clear()
