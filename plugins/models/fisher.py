"""The diagonal of the Fisher information, from the gradient of every example by itself.

Through torch.func every example has a gradient of its own for every weight, which a convolution pays for with a
convolution for each example. So that only what layers give is differentiated there, by what is added to it, which is
nothing; a layer's weights are then told by what went in and what came back, as in any backward pass, and squared before
they are summed. Parameters of other modules go through torch.func whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

Layer = nn.Linear | nn.Conv2d
# (the model as a function, one example) -> its loss, a number
Loss = Callable[..., Tensor]

_AT_ONCE = 2**19  # entries of single examples' gradients that are held: what stays in a processor's cache


def per_sample(net: nn.Module, inputs: Tensor, labels: Tensor, chunk: int = 128) -> dict[str, Tensor]:
    """(1/n) Σ_i (∂ −log p(y_i|x_i) / ∂θ)², by the names of parameters."""

    def loss(model: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x[None]), y[None])

    return squared(net, loss, (inputs, labels), chunk)


def squared(net: nn.Module, loss: Loss, samples: Sequence[Tensor], chunk: int = 128) -> dict[str, Tensor]:
    """(1/n) Σ_i (∂ loss_i / ∂θ)², by the names of parameters. samples: tensors [n, ...], of which ``loss(model, *row)``
    is handed a row of each; no example may hang on another one, as in a batch norm that trains."""
    calls = _calls(net, loss, [one[0] for one in samples])
    own = {f"{path}.{name}" for path, (layer, _) in calls.items() for name, _ in layer.named_parameters()}
    plain = {name: one.detach() for name, one in net.named_parameters() if name not in own}
    fixed = {name: one.detach() for name, one in (*net.named_parameters(), *net.named_buffers()) if name not in plain}
    nothing = {path: [torch.zeros_like(out) for out in outs] for path, (_, outs) in calls.items()}

    def one(others: dict[str, Tensor], added: dict[str, list[Tensor]], *row: Tensor) -> tuple[Tensor, Any]:
        read: dict[str, list[Tensor]] = {path: [] for path in calls}

        def added_to(path: str, given: Tensor, out: Tensor) -> Tensor:
            read[path].append(given)
            return out + added[path][len(read[path]) - 1]

        with _Hooks({path: layer for path, (layer, _) in calls.items()}, added_to):
            return loss(lambda *args, **more: functional_call(net, fixed | others, args, more), *row), read

    each = vmap(grad(one, (0, 1), has_aux=True), in_dims=(None, None, *[0] * len(samples)))
    total = {name: torch.zeros_like(one) for name, one in net.named_parameters()}
    with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for batches of backward passes
        for part in zip(*(one.split(chunk) for one in samples)):
            (others, back), read = each(plain, nothing, *part)
            for name, gradient in others.items():
                total[name] += gradient.square().sum(0)
            for path, (layer, _) in calls.items():
                total[f"{path}.weight"] += _of_weight(layer, read[path], back[path])
                if layer.bias is not None:
                    total[f"{path}.bias"] += _of_bias(layer, back[path])
    return {name: one / len(samples[0]) for name, one in total.items()}


def of_layers(layers: Mapping[str, Layer], losses: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Σ_i (∂ loss_i / ∂W)² of the weights of some layers, where they are in a model, by their names.

    losses: gives [n], each of which hangs on one row alone of what the layers read, [n, ...]
    """
    read: dict[str, list[Tensor]] = {name: [] for name in layers}
    gave: dict[str, list[Tensor]] = {name: [] for name in layers}

    def kept(name: str, given: Tensor, out: Tensor) -> Tensor:
        out = out if out.requires_grad else out.requires_grad_()
        read[name].append(given.detach()[:, None])
        gave[name].append(out)
        return out

    with torch.enable_grad(), _Hooks(layers, kept):
        total = losses().sum()
        back = iter(torch.autograd.grad(total, [one for outs in gave.values() for one in outs]))
    return {
        name: _of_weight(layers[name], read[name], [next(back)[:, None] for _ in outs]) for name, outs in gave.items()
    }


class _Hooks:
    """``told(path, what went in, what came out)`` of every call of some layers, and what it gives in place of that."""

    def __init__(self, layers: Mapping[str, Layer], told: Callable[[str, Tensor, Tensor], Tensor | None]):
        self.layers, self.told = layers, told

    def __enter__(self) -> None:
        self.handles = [
            layer.register_forward_hook(lambda _, args, out, path=path: self.told(path, args[0], out))
            for path, layer in self.layers.items()
        ]

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()


@torch.no_grad()
def _calls(net: nn.Module, loss: Loss, row: Sequence[Tensor]) -> dict[str, tuple[Layer, list[Tensor]]]:
    """The layers that are told by what goes through them, with what they give at each call for one example. None whose
    weight is another module's as well, nor one that nobody calls."""
    owners = Counter(id(one) for module in net.modules() for one in module.parameters(recurse=False))
    layers = {
        path: layer for path, layer in net.named_modules()
        if type(layer) in (nn.Linear, nn.Conv2d) and all(owners[id(one)] == 1 for one in layer.parameters())
        and (isinstance(layer, nn.Linear) or (layer.groups == 1 and not isinstance(layer.padding, str)
                                              and layer.padding_mode == "zeros"))
    }  # fmt: skip
    found: dict[str, tuple[Layer, list[Tensor]]] = {}
    with _Hooks(layers, lambda path, _, out: found.setdefault(path, (layers[path], []))[1].append(out)):
        loss(net, *row)
    return found


def _of_weight(layer: Layer, read: Sequence[Tensor], back: Sequence[Tensor]) -> Tensor:
    """Squares of each example's gradient of a weight, summed. read, back [n, ...] of each call"""
    size = max(1, _AT_ONCE // layer.weight.numel())
    total = torch.zeros_like(_pulled(layer, read[0][:1], back[0][:1])[0])
    for inputs, gradients in zip(zip(*(x.split(size) for x in read)), zip(*(g.split(size) for g in back))):
        total += reduce(add, [_pulled(layer, x, g) for x, g in zip(inputs, gradients)]).square_().sum(0)
    if isinstance(layer, nn.Linear):
        return total
    return total.unflatten(1, (*layer.kernel_size, -1)).permute(0, 3, 1, 2)


def _pulled(layer: Layer, x: Tensor, g: Tensor) -> Tensor:
    """Each example's gradient of a weight, [n, out, in]; of a convolution with (height, width, in) for in."""
    if isinstance(layer, nn.Conv2d):
        n, b = x.shape[:2]
        (down, right), (high, wide) = layer.stride, layer.kernel_size
        up, left = map(int, layer.padding)
        rows, columns = x.shape[-2:]
        last = x.new_zeros(n * b, rows + 2 * up, columns + 2 * left, x.shape[2])  # channels last: longer runs to copy
        last[:, up : up + rows, left : left + columns] = x.flatten(0, 1).permute(0, 2, 3, 1)
        s, (far, wider) = last.stride(), layer.dilation
        size = (n * b, *g.shape[-2:], high, wide, x.shape[2])
        x = last.as_strided(size, (s[0], s[1] * down, s[2] * right, s[1] * far, s[2] * wider, 1))
        x = x.reshape(n, b * size[1] * size[2], -1)
        return torch.bmm(g.transpose(1, 2).reshape(n, g.shape[2], -1), x)
    return torch.bmm(g.flatten(1, -2).transpose(1, 2), x.flatten(1, -2))


def _of_bias(layer: Layer, back: Sequence[Tensor]) -> Tensor:
    """The same of a bias."""
    each = [g.sum((1, 3, 4)) if isinstance(layer, nn.Conv2d) else g.flatten(1, -2).sum(1) for g in back]
    return reduce(add, each).square().sum(0)


def of_batches(net: nn.Module, inputs: Tensor, labels: Tensor, batch: int = 64) -> dict[str, Tensor]:
    """The authors' code: the square of each batch's mean gradient, averaged over batches. It depends on the batches."""
    names, parameters = zip(*net.named_parameters())
    total = {name: torch.zeros_like(one) for name, one in zip(names, parameters)}
    parts = list(zip(inputs.split(batch), labels.split(batch)))
    for x, y in parts:
        for name, gradient in zip(names, torch.autograd.grad(F.cross_entropy(net(x), y), parameters)):
            total[name] += gradient.pow(2) / len(parts)
    return total
