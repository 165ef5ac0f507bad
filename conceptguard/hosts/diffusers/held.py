"""A tensor as it was: the same one may be written to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Held(NamedTuple):
    """What came last, the count of writes to it, and a copy: tensors of inference mode have no count, and writes
    through ``.data`` or numpy are not counted."""

    tensor: Tensor | None
    version: int | None
    copy: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor | None) -> Held:
        """A tensor as it is now."""
        return cls(tensor, _version(tensor), None if tensor is None else tensor.detach().clone())

    def still(self, tensor: Tensor | None) -> bool:
        """Whether this is the same tensor, and holds the same."""
        if tensor is not self.tensor or _version(tensor) != self.version:
            return False
        if tensor is None or self.copy is None:
            return True
        return tensor.shape == self.copy.shape and torch.equal(tensor, self.copy)


def _version(tensor: Tensor | None) -> int | None:
    return None if tensor is None or tensor.is_inference() else tensor._version
