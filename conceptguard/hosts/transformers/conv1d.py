"""GPT-2's linear layers, which keep their weight the other way round than ``nn.Linear``: [in, out]."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...runtime.lowrank import Part


def is_turned(module: nn.Module) -> bool:
    """Whether this is transformers' ``Conv1D``, told without importing it."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and hasattr(module, "nx")


class Turned(Part):
    """A ``Conv1D`` as a linear layer of [out, in]."""

    turned = True

    def __init__(self, whole: Any):
        self.whole = whole
        self.in_features, self.out_features = int(whole.nx), int(whole.nf)
        self.outputs = slice(0, self.out_features)

    @property
    def weight(self) -> Tensor:
        """[out, in], a view."""
        weight: Tensor = self.whole.weight  # type: ignore[assignment]
        return weight.T
