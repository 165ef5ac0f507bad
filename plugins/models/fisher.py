"""The diagonal of the Fisher information, from the gradient of every example by itself.

What a layer read of an example, and what came back to what it gave, tell the gradients of its weights. Where every
layer has a row for each example, one pass of a batch has all of that; parameters of other modules that stand in one row
for all examples, as places of a transformer do, are given to each as its own. Elsewhere torch.func keeps examples
apart: by vmap of the gradient of what is added to what layers give, which is nothing, since gradients of their weights
would cost a convolution for each example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from .squares import Layer, squares, told_layers

Layers = Mapping[str, Layer]
# Of each layer by its name, what it read, gave, or got back, at each of its calls.
Calls = dict[str, list[Tensor]]
# (the model as a function, examples [n, ...]) -> their losses, [n]
Losses = Callable[..., Tensor]
# examples -> what layers read, and got back, and gradients of parameters that are not theirs
Passing = Callable[[Sequence[Tensor]], tuple[Calls, Calls, dict[str, Tensor]]]

_TOGETHER = 64  # examples in a pass: of more, what layers gave is memory that the system hands out anew each time


def per_sample(net: nn.Module, inputs: Tensor, labels: Tensor, chunk: int = _TOGETHER) -> dict[str, Tensor]:
    """(1/n) Σ_i (∂ −log p(y_i|x_i) / ∂θ)², by the names of parameters."""

    def losses(model: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y, reduction="none")

    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)  # as convolutions are quicker with
    return squared(net, losses, (inputs, labels), chunk)


def squared(net: nn.Module, losses: Losses, samples: Sequence[Tensor], chunk: int = _TOGETHER) -> dict[str, Tensor]:
    """(1/n) Σ_i (∂ loss_i / ∂θ)², by the names of parameters. samples: tensors [n, ...], of which ``losses(model,
    *rows)`` is handed some rows of each; no example may hang on another one, as in a batch norm that trains."""
    layers = told_layers(net)
    gave = _given(layers, losses, net, [x[:1] for x in samples])
    layers = {path: layers[path] for path in gave}
    own = {f"{path}.{name}" for path, layer in layers.items() for name, _ in layer.named_parameters()}
    others = {name: x.detach() for name, x in net.named_parameters() if name not in own}
    together = _have_own(net, losses, others, [x[:1] for x in samples])
    alone = _alone(net, losses, layers, others, gave)
    total: dict[str, Tensor] = {}

    def add(name: str, found: Tensor) -> None:
        total[name] = total[name].add_(found) if name in total else found

    for rows in zip(*(x.split(chunk) for x in samples)):
        if together:
            own_of = {name: x.expand(len(rows[0]), *x.shape[1:]).requires_grad_() for name, x in others.items()}
            read, back, gradients = _passed(layers, losses, _with(net, own_of), *rows, also=own_of)
            together = _by_row(gave, back, len(rows[0]))
        if not together:
            read, back, gradients = alone(rows)
        for name, gradient in gradients.items():
            add(name, gradient.square().sum(0).view_as(others[name]))
        for path, layer in layers.items():
            for name, found in squares(layer, read[path], back[path]).items():
                add(f"{path}.{name}", found)
    return {
        name: (total[name] / len(samples[0])).contiguous() if name in total else torch.zeros_like(x)
        for name, x in net.named_parameters()
    }


def of_layers(layers: Layers, losses: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Σ_i (∂ loss_i / ∂W)² of the weights of some layers, where they are in a model, by their names.

    losses: gives [n], each of which hangs on one row alone of what the layers read, [n, ...]
    """
    read, back, _ = _passed(layers, losses)
    return {name: squares(layer, read[name], back[name])["weight"] for name, layer in layers.items()}


def of_batches(net: nn.Module, inputs: Tensor, labels: Tensor, batch: int = 64) -> dict[str, Tensor]:
    """The authors' code: the square of each batch's mean gradient, averaged over batches. It depends on the batches."""
    names, parameters = zip(*net.named_parameters())
    total = {name: torch.zeros_like(one) for name, one in zip(names, parameters)}
    parts = list(zip(inputs.split(batch), labels.split(batch)))
    for x, y in parts:
        for name, gradient in zip(names, torch.autograd.grad(F.cross_entropy(net(x), y), parameters)):
            total[name] += gradient.pow(2) / len(parts)
    return total


def _passed(
    layers: Layers, losses: Callable[..., Tensor], *given: Any, also: Mapping[str, Tensor] = MappingProxyType({})
) -> tuple[Calls, Calls, dict[str, Tensor]]:
    """What layers read and got back in one pass of a batch, [n, 1, ...] each, and gradients of other tensors."""
    read: Calls = {name: [] for name in layers}
    gave: Calls = {name: [] for name in layers}

    def kept(name: str, given: Tensor, out: Tensor) -> Tensor:
        out = out if out.requires_grad else out.requires_grad_()
        read[name].append(given.detach()[:, None])
        gave[name].append(out)
        return out

    with torch.enable_grad(), _Hooks(layers, kept):
        total, wanted = losses(*given).sum(), [one for outs in gave.values() for one in outs]
        back = iter(torch.autograd.grad(total, [*wanted, *also.values()], materialize_grads=True))
    found = {name: [next(back)[:, None] for _ in outs] for name, outs in gave.items()}
    return read, found, dict(zip(also, back))


def _alone(net: nn.Module, losses: Losses, layers: Layers, others: dict[str, Tensor], gave: Calls) -> Passing:
    """The same by torch.func, of each example's own pass, [n, ...] each, and gradients of other parameters, [n, ...]

    gave: what layers give for one example"""
    fixed = {name: x.detach() for name, x in (*net.named_parameters(), *net.named_buffers()) if name not in others}
    nothing = {path: [torch.zeros_like(x) for x in outs] for path, outs in gave.items()}

    def loss(others: dict[str, Tensor], added: Calls, row: Sequence[Tensor]) -> tuple[Tensor, Calls]:
        read: Calls = {path: [] for path in layers}

        def added_to(path: str, given: Tensor, out: Tensor) -> Tensor:
            read[path].append(given)
            return out + added[path][len(read[path]) - 1]

        with _Hooks(layers, added_to):
            return losses(_with(net, fixed | others), *(x[None] for x in row)).sum(), read

    def passed(rows: Sequence[Tensor]) -> tuple[Calls, Calls, dict[str, Tensor]]:
        with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for batches of backward passes
            (gradients, back), read = vmap(lambda row: grad(loss, (0, 1), has_aux=True)(others, nothing, row))(rows)
        return read, back, gradients

    return passed


def _with(net: nn.Module, parameters: dict[str, Tensor]) -> Callable[..., Any]:
    """The net with other parameters."""
    return lambda *args, **more: functional_call(net, parameters, args, more)


@torch.no_grad()
def _have_own(net: nn.Module, losses: Losses, others: dict[str, Tensor], row: Sequence[Tensor]) -> bool:
    """Whether each example can have its own row of some parameters, [n, ...] in place of [1, ...]: one between others,
    with other rows, has the loss that it has by itself."""
    if not others:
        return True
    if any(x.shape[:1] != (1,) for x in others.values()):
        return False
    three = {name: torch.cat([x + 1, x, x - 1]) for name, x in others.items()}
    try:
        found = losses(_with(net, three), *(x.expand(3, *x.shape[1:]) for x in row))
        return torch.allclose(found[1:2], losses(net, *row), rtol=1e-4)
    except RuntimeError:  # three rows do not fit where one does
        return False


@torch.no_grad()
def _given(layers: Layers, losses: Losses, net: nn.Module, rows: Sequence[Tensor]) -> Calls:
    """What layers give at each call, of those that are called."""
    found: Calls = {}
    with _Hooks(layers, lambda path, _, out: found.setdefault(path, []).append(out)):
        losses(net, *rows)
    return found


def _by_row(gave: Calls, back: Calls, n: int) -> bool:
    """Whether layers have a row for each example: they gave one for one example, and ``n`` for as many."""
    rows = {path: [x.shape[:1] == (1,) and (n, *x.shape) for x in outs] for path, outs in gave.items()}
    return rows == {path: [tuple(x.shape) for x in outs] for path, outs in back.items()}


class _Hooks:
    """``told(path, what went in, what came out)`` of every call of some layers, and what it gives in place of that."""

    def __init__(self, layers: Layers, told: Callable[[str, Tensor, Tensor], Tensor | None]):
        self.layers, self.told = layers, told

    def __enter__(self) -> None:
        self.handles = [
            layer.register_forward_hook(lambda _, args, out, path=path: self.told(path, args[0], out))
            for path, layer in self.layers.items()
        ]

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()
