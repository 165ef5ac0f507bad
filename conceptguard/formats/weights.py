"""Weights of live layers as numbers, whatever holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_ROWS = 1024  # that a layer is asked at once
_ELSEWHERE = ("_hf_hook", "_diffusers_hook")  # accelerate's and diffusers' offload, which fetch a weight for a call


def read_weights_of(
    modules: Mapping[str, Any], fetch: Callable[[Any], Tensor | None] = lambda weight: None
) -> Callable[[str], Tensor]:
    """The weight by canonical name that a layer of a LayerIndex multiplies with, [out, in] (or [out, in, kh, kw]).

    A linear layer whose weight is quantised, or elsewhere between two calls, is asked what it makes of every input.
    fetch: gives a layer's weight where it is known to be elsewhere, else None
    """

    def weight(name: str) -> Tensor:
        module = modules[name]
        layer = getattr(module, "base_layer", module)
        whole = getattr(layer, "whole", layer)
        found = fetch(whole.weight)
        if found is None:
            found = whole.weight.detach() if _at_hand(whole) else asked(whole)
        return found if whole is layer else layer.own(found)  # type: ignore[no-any-return]

    return weight


def _at_hand(layer: Any) -> bool:
    import torch

    weight = layer.weight
    if not isinstance(weight, torch.Tensor):  # a packed layer's is a function
        return False
    if weight.ndim != 2:
        return True
    plain = type(weight) in (torch.Tensor, torch.nn.Parameter) and weight.is_floating_point() and not weight.is_meta
    return plain and weight.itemsize > 1 and not any(hasattr(layer, mark) for mark in _ELSEWHERE)


def _numbers(layer: Any) -> list[Tensor]:
    """A layer's weight and bias, as far as they are tensors."""
    import torch

    return [one for name in ("weight", "bias") if isinstance(one := getattr(layer, name, None), torch.Tensor)]


def _computes_in(layer: Any) -> Iterator[torch.dtype | None]:
    hooks = getattr(getattr(layer, "_diffusers_hook", None), "hooks", {})
    for holder in (layer, *hooks.values()):
        yield getattr(holder, "compute_dtype", None)
    for tensor in _numbers(layer):
        if tensor.is_floating_point() and tensor.itemsize > 1:
            yield tensor.dtype


def asked(layer: Any) -> Tensor:
    """A linear layer's weight [out, in], from what it makes of each input alone, less what it makes of none."""
    import torch

    from conceptguard.runtime.bank import running

    dtype = next((kind for kind in _computes_in(layer) if kind is not None), torch.float32)
    device = getattr(getattr(layer, "_hf_hook", None), "execution_device", None)
    device = device or next((one.device for one in _numbers(layer)), None)  # what torch packs lies on the processor
    every = torch.eye(layer.in_features, dtype=dtype, device=device)
    token = running.set(layer)  # no session's terms act meanwhile
    try:
        with torch.no_grad():
            nothing = layer(torch.zeros_like(every[:1])).float()
            found = torch.cat([layer(some).float() - nothing for some in every.split(_ROWS)])
    finally:
        running.reset(token)
    return found.T
