"""Changes of a module's own tensors, in place while a policy is attached, and taken back to the last bit.

A guard that no prompt opens may be folded into the weights: nothing is in the way of a call then, biases and norms are
reached as well, and whoever calls a part of the module calls a guarded one. The tensors that were there are kept and
put back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import BaseMismatch, GuardError, SessionError


class Place(NamedTuple):
    """A parameter or buffer and whose attribute it is."""

    owner: nn.Module
    attribute: str

    @property
    def tensor(self) -> Tensor:
        """What is there now."""
        return getattr(self.owner, self.attribute)  # type: ignore[no-any-return]


def places(module: nn.Module, prefix: str = "model") -> dict[str, Place]:
    """Every parameter and floating buffer by its name. One that has several names is the first one's."""
    found: dict[str, Place] = {}
    seen: set[int] = set()
    for path, owner in module.named_modules():
        for attribute, tensor in (*owner._parameters.items(), *owner._buffers.items()):
            if tensor is not None and tensor.is_floating_point() and id(tensor) not in seen:
                seen.add(id(tensor))
                found[".".join(filter(None, (prefix, path, attribute)))] = Place(owner, attribute)
    return found


class _Folded:
    """One tensor. A sum over its values is compared, since writes past its version counter leave no other trace."""

    def __init__(self, name: str, place: Place, change: Tensor):
        self.name, self.place = name, place
        if place.tensor.shape != change.shape:
            raise BaseMismatch(
                f"{name} is {list(place.tensor.shape)}, and a change of it {list(change.shape)}: use an artifact made "
                "for this base model"
            )
        self.before = place.tensor.data
        self.change = change
        self.seen: tuple[object, ...] = ()

    def value(self) -> Tensor:
        """What it is with the change, as the tensor is now on its device and in its dtype."""
        here = self.before.float() + self.change.to(self.before.device).float()
        return here.to(self.before.dtype).to(self.place.tensor)

    def mark(self, total: float) -> tuple[object, ...]:
        """What tells that nobody wrote to it. total: of its values"""
        data = self.place.tensor.data
        return (data.data_ptr(), self.place.tensor._version, data.dtype, total)

    def is_there(self, total: float) -> bool:
        """Whether the change is what runs. A module that was moved or cast has it there as well."""
        now = self.mark(total)
        if now == self.seen:
            return True
        if not torch.equal(self.place.tensor.data, self.value()):
            return False
        self.seen = now
        return True

    def unfold(self) -> None:
        self.place.tensor.data = self.before.to(self.place.tensor)


class Folded:
    """The changes of one session. Raises BaseMismatch for a tensor that is not there, or of another shape."""

    def __init__(self, module: nn.Module, changes: Mapping[str, Tensor]):
        known = places(module)
        for name in changes:
            if name not in known:
                raise BaseMismatch(f"this model has no tensor {name[:160]}: use an artifact made for this base model")
        self._folded = [_Folded(name, known[name], change) for name, change in changes.items()]

    def fold(self) -> None:
        """Put all changes in place."""
        for one in self._folded:
            one.place.tensor.data = one.value()
        for one, total in zip(self._folded, self._totals()):
            one.seen = one.mark(total)

    def _totals(self) -> list[float]:
        """The sum of each tensor's values; all are read at once, since each reading waits for the device."""
        sums = [one.place.tensor.data.sum() for one in self._folded]
        return torch.stack([one.to(sums[0].device, torch.float64) for one in sums]).tolist() if sums else []

    def _changed(self) -> list[str]:
        """Names of tensors that are not what was put in place."""
        return [one.name for one, total in zip(self._folded, self._totals()) if not one.is_there(total)]

    def check(self) -> None:
        """Raises GuardError where something else runs than was put in place."""
        if changed := self._changed():
            raise GuardError(
                f"{changed[0]} was changed while a policy is attached (loaded, trained or replaced), so that its "
                "guards may not act: detach, change it, and attach again"
            )

    def unfold(self) -> None:
        """Put back what was there. Raises SessionError, afterwards, where somebody changed it meanwhile."""
        changed = self._changed()
        for one in self._folded:
            one.unfold()
        self._folded = []
        if changed:
            raise SessionError(
                f"{changed[0]} was changed while a policy was attached; it is again what it was before: load or train "
                "weights while no policy is attached"
            )
