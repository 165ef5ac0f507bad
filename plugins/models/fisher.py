"""The diagonal of the Fisher information, from the gradient of every example by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits, labels) -> a mean


def per_sample(net: nn.Module, inputs: Tensor, labels: Tensor, chunk: int = 32) -> dict[str, Tensor]:
    """(1/n) Σ_i (∂ −log p(y_i|x_i) / ∂θ)², by the names of parameters."""
    state = {name: one.detach() for name, one in net.named_parameters()}
    buffers = dict(net.named_buffers())

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(net, (parameters, buffers), (x[None],)), y[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    total = {name: torch.zeros_like(one) for name, one in state.items()}
    with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for batches of backward passes
        for x, y in zip(inputs.split(chunk), labels.split(chunk)):
            for name, gradient in each(state, x, y).items():
                total[name] += gradient.pow(2).sum(0)
    return {name: one / len(inputs) for name, one in total.items()}


def of_batches(net: nn.Module, inputs: Tensor, labels: Tensor, batch: int = 64) -> dict[str, Tensor]:
    """The authors' code: the square of each batch's mean gradient, averaged over batches. It depends on the batches."""
    names, parameters = zip(*net.named_parameters())
    total = {name: torch.zeros_like(one) for name, one in zip(names, parameters)}
    parts = list(zip(inputs.split(batch), labels.split(batch)))
    for x, y in parts:
        for name, gradient in zip(names, torch.autograd.grad(F.cross_entropy(net(x), y), parameters)):
            total[name] += gradient.pow(2) / len(parts)
    return total
