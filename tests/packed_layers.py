"""Layers that keep their weights as quantisers do: no floating point, in a shape of their own, or behind a function."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Int8(nn.Module):
    """A row at 8 bits with its largest weight as scale: [out, in] int8, as bitsandbytes' ``Linear8bitLt``."""

    levels = 127

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        weight = layer.weight.detach()
        self.register_buffer("scale", weight.abs().amax(1, keepdim=True) / self.levels)
        self.weight = nn.Parameter(self.packed((weight / self.scale).round()), requires_grad=False)

    def packed(self, codes: Tensor) -> Tensor:
        """Codes [out, in] as they are kept."""
        return codes.to(torch.int8)

    def codes(self) -> Tensor:
        """And back."""
        return self.weight

    def forward(self, given: Tensor) -> Tensor:
        """Through the rounded weight."""
        return nn.functional.linear(given, self.codes().to(given) * self.scale.to(given), self.bias)


class FourBit(Int8):
    """Two weights in a byte: [out * in / 2, 1] uint8, as bitsandbytes' ``Linear4bit``."""

    levels = 7

    def packed(self, codes: Tensor) -> Tensor:
        """The first of two in the upper half."""
        flat = (codes.flatten() + 8).to(torch.uint8)
        return (flat[::2] * 16 + flat[1::2])[:, None]

    def codes(self) -> Tensor:
        """[out, in]."""
        both = torch.cat([self.weight // 16, self.weight % 16], 1).flatten()
        return both.view(self.out_features, self.in_features).to(torch.int8) - 8


def quantised(model: Any, kind: str) -> Any:
    """A copy. kind: "int8" and "four_bit", all linear layers but the head, or "packed", by torch's own quantiser."""
    model = copy.deepcopy(model)
    if kind == "packed":
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    make = {"int8": Int8, "four_bit": FourBit}[kind]
    linear = [(name, one) for name, one in model.named_modules() if type(one) is nn.Linear and name != "lm_head"]
    for name, layer in linear:
        model.set_submodule(name, make(layer))
    return model
