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

    def fold(self) -> None:
        self.place.tensor.data = self.value()
        self.seen = self._mark()

    def _mark(self) -> tuple[object, ...]:
        data = self.place.tensor.data
        return (data.data_ptr(), self.place.tensor._version, data.dtype, data.sum().item())

    def check(self) -> bool:
        """Whether the change is what runs. A module that was moved or cast has it there as well."""
        now = self._mark()
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
            one.fold()

    def check(self) -> None:
        """Raises GuardError where something else runs than was put in place."""
        for one in self._folded:
            if not one.check():
                raise GuardError(
                    f"{one.name} was changed while a policy is attached (loaded, trained or replaced), so that its "
                    "guards may not act: detach, change it, and attach again"
                )

    def unfold(self) -> None:
        """Put back what was there. Raises SessionError, afterwards, where somebody changed it meanwhile."""
        changed = [one.name for one in self._folded if not one.check()]
        for one in self._folded:
            one.unfold()
        self._folded = []
        if changed:
            raise SessionError(
                f"{changed[0]} was changed while a policy was attached; it is again what it was before: load or train "
                "weights while no policy is attached"
            )
