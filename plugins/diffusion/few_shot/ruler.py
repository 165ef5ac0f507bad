"""When to stop: how much a concept's prompts still say about pictures of it, in the model's own measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptguard.generation.conditioning import Encoded, pick
from conceptguard.making.noising import losses, noised

if TYPE_CHECKING:
    from conceptguard.protocols import Denoiser

Encode = Callable[[Sequence[str]], Encoded]


class Ruler:
    """The same pictures under the same noise at every measurement, denoised with and without a prompt.

    clean: latents of the pictures; texts: of the concept, in wordings that nothing is trained on; nothing: the empty
    prompt, one row; views: how many pictures with noise on them, at evenly spread timesteps
    """

    def __init__(
        self, denoiser: Denoiser, clean: Tensor, texts: Sequence[str], nothing: Encoded, views: int,
        random: torch.Generator,
    ):  # fmt: skip
        self._denoiser = denoiser
        self._times = torch.tensor([denoiser.timestep((i + 0.5) / views) for i in range(views)])
        noise = torch.randn(views, *denoiser.shape, generator=random)
        self._latents, self._wanted = noised(
            denoiser, clean[[i % len(clean) for i in range(views)]], noise, self._times
        )
        self._texts = [texts[i] for i in spread(len(texts), views, random)]
        self._without = self._loss(pick(nothing, [0] * views))

    @torch.no_grad()
    def gain(self, encode: Encode) -> float:
        """The share of the loss without a prompt that the concept's prompts save: above 0 they help, below mislead."""
        return 1 - self._loss(encode(self._texts)) / self._without

    @torch.no_grad()
    def _loss(self, encoded: Encoded) -> float:
        return float(losses(self._denoiser(self._latents, self._times, encoded), self._wanted).mean())


def spread(n: int, count: int, random: torch.Generator) -> list[int]:
    """``count`` of n numbers, each as often as any other, in random order."""
    turns = [torch.randperm(n, generator=random) for _ in range(-(-count // n))]
    return torch.cat(turns)[:count].tolist()  # type: ignore[no-any-return]
