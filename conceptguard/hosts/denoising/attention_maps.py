"""What a UNet's attention looks at, and how that changes with the latents.

Queries and keys are read where the layers' own projections give them, by hooks that last for one call. No attention
processor is replaced, so whichever a user chose stays, and its fused kernels still do the call's work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ...errors import GuardError, SessionError
from ...protocols import Looks

POSITIONS = 16 * 16  # of the maps that papers on the attention of Stable Diffusion read
# Gradients of mean attention are tiny, and fp16 has no numbers below 6e-8: they are computed at this multiple.
_SCALE = 1024.0


def cross_attentions(denoiser: nn.Module) -> dict[str, Any]:
    """A UNet's cross-attention layers by name."""
    return {name: module for name, module in denoiser.named_modules() if name.endswith("attn2")}


def looks(denoiser: nn.Module, call: Callable[[], object]) -> Looks:
    """What places look at in one call of the denoiser, at the size nearest to ``POSITIONS`` that has both kinds of
    attention. Raises SessionError for what is no UNet with attention."""
    own = {name: module for name, module in denoiser.named_modules() if name.endswith("attn1")}
    across = cross_attentions(denoiser)
    if not own or not across:
        raise SessionError(f"a {type(denoiser).__name__} has no attention between places that can be read: give a UNet")
    with torch.no_grad(), _recorded({**own, **across}) as seen:
        call()
    return Looks(_mean_maps(own, seen), _mean_maps(across, seen))


def attend(
    denoiser: nn.Module, call: Callable[[Tensor], object], latents: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """(maps [rows, positions, tokens], gradient as ``latents``) of one call of the denoiser.

    call: runs the denoiser on latents; loss: maps -> [rows], which must depend on them
    The maps are means over heads and over those layers whose number of positions is nearest to ``POSITIONS``: the
    paper's 16 x 16 at the size that Stable Diffusion 1.x was trained at. Raises GuardError where layers do
    not run, or without gradients.
    """
    # A pipeline runs without gradients; a caller's inference mode must be left, too, with a copy that is not of it.
    layers = cross_attentions(denoiser)
    with torch.inference_mode(False), torch.enable_grad(), _kept(), _recorded(layers) as seen:
        leaf = latents.detach().clone().requires_grad_()
        call(leaf)
        maps = _mean_maps(layers, seen)
        if not maps.requires_grad:
            raise GuardError(
                "the model's attention has no gradient: its layers compute past autograd (with quantised "
                "activations, for one); quantise the weights alone, or take this guard out of the policy"
            )
        (gradient,) = torch.autograd.grad(loss(maps).sum() * _SCALE, leaf)
    return maps.detach(), gradient.float() / _SCALE


def _kept() -> saved_tensors_hooks:
    """Gradients of the weights as they were in the forward pass: offloaded or cast ones are other data by then."""
    return saved_tensors_hooks(Tensor.detach, lambda tensor: tensor)


@contextmanager
def _recorded(layers: dict[str, Any]) -> Iterator[dict[str, dict[str, Tensor]]]:
    """Queries and keys by layer, filled as the denoiser runs."""
    seen: dict[str, dict[str, Tensor]] = {}
    handles = []
    try:
        for name, layer in layers.items():
            own = seen[name] = {}
            for key in ("to_q", "to_k"):
                hook = _keeper(own, key)
                handles.append(getattr(layer, key).register_forward_hook(hook))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keeper(own: dict[str, Tensor], key: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        own[key] = output

    return keep


def _mean_maps(layers: dict[str, Any], seen: dict[str, dict[str, Tensor]]) -> Tensor:
    seen = {name: own for name, own in seen.items() if name in layers}
    for name, own in seen.items():
        if len(own) < 2:
            raise GuardError(
                f"the attention of {name} cannot be read, its own projections did not run: undo what replaced them "
                "(pipe.unfuse_qkv_projections(), for one)"
            )
    size = min((own["to_q"].shape[1] for own in seen.values()), key=lambda n: abs(log(n / POSITIONS)))
    chosen = {name: own for name, own in seen.items() if own["to_q"].shape[1] == size}
    return torch.stack([_maps(layers[name], **own) for name, own in chosen.items()]).mean(0)


def _maps(layer: Any, to_q: Tensor, to_k: Tensor) -> Tensor:
    """softmax(q kᵀ · scale), the mean over heads: [rows, positions, tokens], float32."""
    q, k = (part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in (to_q, to_k))
    # What diffusers has beyond the usual attention, and ComfyUI's UNets do not.
    norm_q, norm_k = getattr(layer, "norm_q", None), getattr(layer, "norm_k", None)
    q = q if norm_q is None else norm_q(q)
    k = k if norm_k is None else norm_k(k)
    scale = getattr(layer, "scale", q.shape[-1] ** -0.5)
    return ((q.float() @ k.float().transpose(-1, -2)) * scale).softmax(-1).mean(1)
