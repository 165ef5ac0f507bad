"""Squares of single examples' gradients of a layer's parameters, told from what it read and what came back to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = nn.Linear | nn.Conv2d | nn.BatchNorm2d | nn.LayerNorm

_AT_ONCE = 2**19  # entries of single examples' gradients that are held: what stays in a processor's cache
_FEW = 4  # places up to which products of pairs of them are fewer than entries of a gradient


def told_layers(net: nn.Module) -> dict[str, Layer]:
    """The layers of a net whose gradients can be told, by their names. None whose weight is another module's too."""
    owners = Counter(id(one) for module in net.modules() for one in module.parameters(recurse=False))

    def told(layer: nn.Module) -> bool:
        if isinstance(layer, nn.Conv2d):
            return layer.groups == 1 and not isinstance(layer.padding, str) and layer.padding_mode == "zeros"
        if isinstance(layer, nn.BatchNorm2d):
            return layer.affine and layer.running_var is not None
        return not isinstance(layer, nn.LayerNorm) or (layer.elementwise_affine and len(layer.normalized_shape) == 1)

    return {
        path: layer for path, layer in net.named_modules()
        if type(layer) in (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm) and told(layer)
        and all(owners[id(one)] == 1 for one in layer.parameters())
    }  # fmt: skip


def squares(layer: Layer, read: Sequence[Tensor], back: Sequence[Tensor]) -> dict[str, Tensor]:
    """Of each parameter, summed over examples. read, back: of each call, [n, rows of an example, ...]"""
    found = {} if layer.bias is None else {"bias": reduce(add, map(_over_places, back)).square().sum(0)}
    if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
        each = [_over_places(_normal(layer, x).mul_(g)) for x, g in zip(read, back)]
        return found | {"weight": reduce(add, each).square().sum(0)}
    total = _of_products(layer, read, back)
    if isinstance(layer, nn.Linear):
        return found | {"weight": total}
    return found | {"weight": total.unflatten(1, (*layer.kernel_size, -1)).permute(0, 3, 1, 2)}


def _over_places(x: Tensor) -> Tensor:
    """[n, rows, channels, height, width] or [n, ..., channels] -> [n, channels]."""
    return x.sum((1, 3, 4)) if x.ndim == 5 else x.flatten(1, -2).sum(1)


def _normal(layer: nn.BatchNorm2d | nn.LayerNorm, x: Tensor) -> Tensor:
    """What a norm scales."""
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    return F.batch_norm(x.flatten(0, 1), layer.running_mean, layer.running_var, eps=layer.eps).view_as(x)


def _patches(layer: nn.Conv2d, x: Tensor, size: torch.Size) -> Tensor:
    """What a convolution reads at each place, [n, places, height · width · in]."""
    (down, right), (high, wide) = layer.stride, layer.kernel_size
    up, left = map(int, layer.padding)
    last = x.flatten(0, 1).permute(0, 2, 3, 1)  # channels last: longer runs to copy
    if up or left:
        last = F.pad(last, (0, 0, left, left, up, up))
    s, (far, wider) = last.stride(), layer.dilation
    strides = (s[0], s[1] * down, s[2] * right, s[1] * far, s[2] * wider, s[3])
    patches = last.as_strided((len(last), *size, high, wide, x.shape[2]), strides)
    return patches.reshape(len(x), -1, high * wide * x.shape[2])


def _rows(layer: nn.Linear | nn.Conv2d, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer reads at each place, [n, places, in], and what comes back to it there, [n, places, out]."""
    if isinstance(layer, nn.Linear):
        return x.flatten(1, -2), g.flatten(1, -2)
    return _patches(layer, x, g.shape[-2:]), g.movedim(2, -1).flatten(1, -2)


def _of_products(layer: nn.Linear | nn.Conv2d, read: Sequence[Tensor], back: Sequence[Tensor]) -> Tensor:
    """Σ_n (Σ_calls gᵀ x)², [out, in], some examples after the other: of these, patches stay in the cache as well."""
    out = layer.weight.shape[0]
    places = back[0][0].numel() // out
    if len(read) == 1 and places <= _FEW:
        return _of_places(*_rows(layer, read[0], back[0]))
    size = max(1, _AT_ONCE // max(layer.weight.numel(), places * layer.weight[0].numel()))
    total = back[0].new_zeros(out, layer.weight.numel() // out)
    for some in zip(*(zip(x.split(size), g.split(size)) for x, g in zip(read, back))):
        pairs = [_rows(layer, x, g) for x, g in some]
        total += reduce(add, [torch.bmm(g.transpose(1, 2), x) for x, g in pairs]).square_().sum(0)
    return total


def _of_places(x: Tensor, g: Tensor) -> Tensor:
    """The same of one call, squared out: no gradient of an example is there at any time."""
    total = x.new_zeros(g.shape[-1], x.shape[-1])
    for place in range(x.shape[1]):
        twice = g[:, place:] * g[:, place, None]
        twice[:, 1:] *= 2
        total.addmm_(twice.flatten(0, 1).T, (x[:, place:] * x[:, place, None]).flatten(0, 1))
    return total.clamp_(min=0)
