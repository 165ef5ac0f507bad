"""Keys and values for an adapter's tokens, layer by layer, without a gradient through the denoiser.

What a layer is to add for a picture beside the empty prompt is known: what it says of the caption, less what it says of
nothing. Keys begin as the text's own, values as the text's less those of the state that every text begins with, which a
layer looks at where it finds nothing; so there is little left to learn.

Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models", 2023.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..emoji_sd import models
from .wanted import States


class Seen(NamedTuple):
    """queries [n, heads, places, width], and what is to be said there, the same; half precision"""

    queries: Tensor
    wanted: Tensor


def layers_of(unet: Any) -> dict[int, Any]:
    """What reads the text, by IP-Adapter's numbers."""
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    return {i: unet.get_submodule(name) for i, name in enumerate(names) if name.endswith("attn2")}


@torch.no_grad()
def begun(unet: Any, states: States) -> dict[int, tuple[Tensor, Tensor]]:
    """Keys and values of each layer to begin with, [inner, width] each: nothing is added for a text's beginning."""
    layers = layers_of(unet).items()
    return {number: (it.to_k.weight.clone(), _silent(it.to_v.weight, states)) for number, it in layers}


def _silent(values: Tensor, states: States) -> Tensor:
    """The same but for a text's beginning, for which they say nothing: so is nothing added for no picture."""
    return values - torch.outer(values @ states.start, states.one())


class _Recording:
    """An attention processor that keeps what it was asked, and how far the caption moves its answer."""

    def __init__(self, nothing: Tensor, kept: list[Seen]):
        self.nothing, self.kept = nothing, kept

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        queries = _heads(attn.to_q(hidden_states), attn)
        said, empty = (
            F.scaled_dot_product_attention(queries, _heads(attn.to_k(text), attn), _heads(attn.to_v(text), attn))
            for text in (encoder_hidden_states, self.nothing.to(hidden_states).expand(len(queries), -1, -1))
        )
        self.kept.append(Seen(queries.bfloat16(), (said - empty).bfloat16()))
        return attn.to_out[0](said.transpose(1, 2).flatten(2))


@torch.no_grad()
def recorded(unet: Any, latents: Tensor, texts: Tensor, nothing: Tensor, seed: int) -> dict[int, Seen]:
    """What layers are asked at noised latents [n, 4, h, w] with their captions' states [n, positions, width]."""
    processors, numbers = dict(unet.attn_processors), layers_of(unet)
    kept: dict[int, list[Seen]] = {number: [] for number in numbers}
    unet.set_attn_processor({
        name: _Recording(nothing, kept[i]) if i in kept else it for i, (name, it) in enumerate(processors.items())
    })  # fmt: skip
    random, abar = torch.Generator().manual_seed(seed), models.alphas_cumprod()
    try:
        for at in range(0, len(latents), 128):
            clean = latents[at : at + 128]
            times = torch.randint(len(abar), (len(clean),), generator=random)
            a = abar[times].view(-1, 1, 1, 1)
            noisy = a.sqrt() * clean + (1 - a).sqrt() * torch.randn(clean.shape, generator=random)
            with torch.autocast("cpu", torch.bfloat16):
                unet(noisy, times, texts[at : at + 128].float())
    finally:
        unet.set_attn_processor(processors)
    return {number: Seen(*map(torch.cat, zip(*some, strict=True))) for number, some in kept.items()}


def solved(
    layer: Any, seen: Seen, tokens: Tensor, begin: tuple[Tensor, Tensor], states: States, steps: int, lr: float = 2e-3,
    batch: int = 384, seed: int = 1,
) -> tuple[Tensor, Tensor, float]:  # fmt: skip
    """Keys and values [inner, width] of one layer, and what share of what it is to say they leave unsaid.

    tokens: [views, n, 4, width], of several views of each picture whose states were seen
    """
    keys, values = (nn.Parameter(it.clone()) for it in begin)
    usual, random, last = seen.wanted.float().square().mean(), torch.Generator().manual_seed(seed), []
    optim = torch.optim.Adam([keys, values], lr, betas=(0.9, 0.99))
    for step in range(steps):
        optim.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 10) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        rows = torch.randint(len(seen.queries), (batch,), generator=random)
        given = tokens[torch.randint(len(tokens), (batch,), generator=random), rows]
        made = F.linear(given, keys), F.linear(given, _silent(values, states))
        said = F.scaled_dot_product_attention(
            seen.queries[rows].float(), _heads(made[0], layer), _heads(made[1], layer)
        )
        loss = F.mse_loss(said, seen.wanted[rows].float()) / usual
        optim.zero_grad()
        loss.backward()
        optim.step()
        last.append(loss.item())
    return keys.detach(), _silent(values, states).detach(), sum(last[-10:]) / len(last[-10:])


def _heads(rows: Tensor, layer: Any) -> Tensor:
    return rows.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
