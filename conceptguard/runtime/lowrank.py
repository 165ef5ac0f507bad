"""What a guard adds beside layers: low-rank terms ``up · diag(gate) · down``, and the layers it may name.

Membranes (rank 1), LoRAs and closed-form edits are all terms. ``banks`` runs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from .gates import Gate

if TYPE_CHECKING:
    pass


class Factors(NamedTuple):
    """One term. down: [rank, in] or [rank, in, kh, kw]; up: [out, rank] or [out, rank, 1, 1]; scale is alpha / rank."""

    down: Tensor
    up: Tensor
    scale: float = 1.0


@dataclass
class Terms:
    """What a guard (``owner``) adds beside the layers it names, and the gate that opens it.

    coupled: the guards of one session that set this are summed factor by factor before the product, with cross terms
    and squared gates, as the official SPM inference does.
    whole: changes of whole parameters and buffers by their names, for hosts of plain modules, which fold what is always
    open into the weights: what low-rank terms do not reach
    towards: open only on rows that a picture is drawn towards, never on a negative prompt of a guided generation

    Without factors a guard still has its gates, in ``act.gates``: for guards that act on predictions or conditions and
    say themselves in which steps they did.
    """

    owner: object
    factors: Mapping[str, Factors]
    gate: Gate
    coupled: bool = False
    towards: bool = False
    whole: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def in_encoders(self) -> bool:
        """Whether all stand beside layers of text encoders: an embedding from elsewhere knows nothing of them."""
        return bool(self.factors) and all(name.startswith("text_encoder") for name in self.factors)


class Part:
    """Some of the outputs of a linear layer that computes several projections at once, as a layer of its own.

    outputs: which; ``whole`` is the layer that runs; turned: whether that keeps its weight as [in, out]
    """

    turned = False

    def __init__(self, whole: nn.Module, outputs: slice):
        self.whole, self.outputs = whole, outputs
        self.in_features, self.out_features = int(whole.in_features), outputs.stop - outputs.start  # type: ignore[arg-type]

    @property
    def weight(self) -> Tensor:
        """[out, in]."""
        return self.own(self.whole.weight)  # type: ignore[arg-type]

    def own(self, rows: Tensor) -> Tensor:
        """Of all outputs' rows [all outputs, ...], this part's, in its order; a view where that can be."""
        return rows[self.outputs]

    def order(self, rows: Tensor) -> Tensor:
        """This part's rows in the order in which the whole layer has them."""
        return rows


class Swapped(Part):
    """A whole linear layer whose two halves stand the other way round than in diffusers: shift before scale."""

    def __init__(self, whole: nn.Module):
        super().__init__(whole, slice(0, int(whole.out_features)))  # type: ignore[arg-type]

    def own(self, rows: Tensor) -> Tensor:
        """A copy: second half first."""
        return torch.cat(rows.chunk(2)[::-1])

    def order(self, rows: Tensor) -> Tensor:
        """The same again."""
        return self.own(rows)


class LayerIndex(Mapping[str, nn.Module]):
    """The host's linear and convolution layers under canonical (diffusers) names, e.g. ``unet.mid_block...to_q``."""

    def __init__(self, components: Mapping[str, nn.Module]):
        self._layers: dict[str, nn.Module] = {}
        for prefix, component in components.items():
            inside = "."  # nothing starts with it
            for name, module in component.named_modules():
                if name.startswith(inside):
                    continue
                if hasattr(module, "base_layer"):
                    # A peft adapter around a layer: the layer itself is indexed, under the name it has without the
                    # adapter, and stays hooked when adapters come and go.
                    inside = f"{name}."
                    module = module.base_layer
                if _is_layer(module):
                    self._layers[f"{prefix}.{name}"] = module  # type: ignore[assignment]

    @classmethod
    def named(cls, layers: Mapping[str, nn.Module | Part]) -> LayerIndex:
        """Of layers that already go by their canonical names."""
        index = cls({})
        index._layers = {name: layer for name, layer in layers.items() if _is_layer(layer)}  # type: ignore[misc]
        return index

    def __getitem__(self, name: str) -> nn.Module:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Weight shapes by name, quantised layers included: [out, in] or [out, in, kh, kw]."""
        return {name: layer_shape(module) for name, module in self._layers.items()}


def _is_layer(module: nn.Module | Part) -> bool:
    # Quantised layers subclass nn.Linear or keep its two attributes.
    return (hasattr(module, "in_features") and hasattr(module, "out_features")) or isinstance(module, nn.Conv2d)


def layer_shape(module: nn.Module | Part) -> tuple[int, ...]:
    """[out, in] or [out, in, kh, kw], whatever the storage of the weight."""
    if isinstance(module, nn.Conv2d):
        return (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
    return (int(module.out_features), int(module.in_features))  # type: ignore[arg-type]
