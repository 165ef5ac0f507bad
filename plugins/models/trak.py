"""TRAK: how much each training example adds to a model's margins, from gradients of that one model.

τ(x)_i = φ(x)ᵀ (Φᵀ Φ)⁻¹ φ(x_i) (1 − p_i)        φ(x) = Pᵀ ∂ margin(x) / ∂θ,    margin = log p / (1 − p)

Park et al., "TRAK: Attributing Model Behavior at Scale", ICML 2023, of one model. P adds weights up into ``width``
sums with random signs (feature hashing, Weinberger et al. 2009), which keeps inner products as their Gaussian does and
is not held in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from conceptguard.measuring.classifier.measures import margin_of


def trak(
    net: nn.Module, inputs: Tensor, labels: Tensor, random: torch.Generator, width: int = 512, chunk: int = 32
) -> Tensor:
    """τ of every example by every example, [n of x, n of i]: what each margin loses without an example, as far as this
    linear model tells."""
    state = {name: one.detach() for name, one in net.named_parameters()}
    buffers = dict(net.named_buffers())
    hashed = {
        name: (torch.randint(width, (one.numel(),), generator=random).to(one.device),
               torch.randint(2, (one.numel(),), generator=random).to(one) * 2 - 1)
        for name, one in state.items()
    }  # fmt: skip

    def margin(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return margin_of(functional_call(net, (parameters, buffers), (x[None],)), y[None])[0]

    each = vmap(grad(margin), in_dims=(None, 0, 0))
    found = []
    with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for batches of backward passes
        for x, y in zip(inputs.split(chunk), labels.split(chunk)):
            sums = torch.zeros(len(x), width).to(x)
            for name, gradient in each(state, x, y).items():
                place, sign = hashed[name]
                sums.index_add_(1, place, gradient.flatten(1) * sign)
            found.append(sums)
        with torch.no_grad():
            margins = torch.cat([margin_of(net(x), y) for x, y in zip(inputs.split(256), labels.split(256))])
    phi = torch.cat(found).double()
    gram = phi.T @ phi
    gram += 1e-6 * gram.diagonal().mean() * torch.eye(width).to(gram)
    return (phi @ torch.linalg.solve(gram, phi.T) * torch.sigmoid(-margins)).float()
