"""Sampling in this process, as ComfyUI's nodes do."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

SHAPE = (4, 16, 16)


@cache
def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


class Bare:
    """A model without guards: each text is encoded and each sampling drawn once, whatever is held against it."""

    def __init__(self, parts: Any):
        self.parts = parts
        self._encoded: dict[str, list[Any]] = {}
        self._drawn: dict[Any, Tensor] = {}

    @torch.inference_mode()
    def encode(self, text: str) -> list[Any]:
        if text not in self._encoded:
            self._encoded[text] = encode(self.parts.clip, text)
        return self._encoded[text]

    def sample(self, text: str, **options: Any) -> Tensor:
        """Without a negative prompt."""
        key = text, frozenset(options.items())  # holds a latent, so that no other one can have its place
        if key not in self._drawn:
            self._drawn[key] = sample(self.parts.model, self.encode(text), self.encode(""), **options)
        return self._drawn[key]


@cache
def bare_of(parts: Any) -> Bare:
    """One for all guards of a file, at whose end it is forgotten."""
    return Bare(parts)


def encode(clip: Any, text: str) -> list[Any]:
    """What CLIP Text Encode gives."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


@torch.inference_mode()
def sample(
    model: Any, positive: Any, negative: Any, *, steps: int = 3, cfg: float = 3.5, seed: int = 1, batch: int = 1,
    sampler: str = "euler", **more: Any,
) -> Tensor:  # fmt: skip
    """What KSampler gives, [batch, 4, 16, 16]."""
    import comfy.sample

    start = more.pop("latent", torch.zeros(batch, *SHAPE))
    noise = comfy.sample.prepare_noise(start, seed)
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, "normal", positive, negative, start, disable_pbar=True, seed=seed, **more
    )


@torch.inference_mode()
def predict(model: Any, positive: Any, negative: Any, x: Tensor, timestep: int, cfg: float) -> Tensor:
    """The guided noise prediction for latents x [rows, ...], in the scale of diffusers, at one timestep."""
    import comfy.samplers

    sigma = model.get_model_object("model_sampling").sigma(torch.tensor([float(timestep)]))
    found = {}

    def once(call: Any, noise: Tensor, sigmas: Tensor, extra_args: Any = None, **_: Any) -> Tensor:
        scaled = x * (1 + sigma**2) ** 0.5
        found["x0"] = (scaled, call(scaled, sigma.expand(len(x)), **extra_args))
        return noise

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    sampler = comfy.samplers.KSAMPLER(once)
    nothing = torch.zeros_like(x)
    guider.sample(nothing, nothing, sampler, torch.tensor([float(sigma), 0.0]), disable_pbar=True)
    scaled, clean = found["x0"]
    return (scaled - clean) / sigma
