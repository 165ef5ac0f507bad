"""One call of a denoiser, and how to make it again for some of its rows, with every guard out of the way."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...generation.conditioning import Encoded
from ...runtime.bank import running
from ..denoising.attention_maps import attend
from ..denoising.rows import pick_rows
from .caches import unskipped

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ..denoising.families import Family

_NOT_ROWS = ("txt_ids", "img_ids")  # positions, the same for every row


class DenoiserCall:
    """module(*args, **kwargs), as a host's hooks saw it.

    owner: whose the repeated calls are: no session's; plain: in here the model is as it is without caches and the like
    lengthened: (embeds, tokens) -> a guard's own text in as many tokens as the call has
    """

    def __init__(
        self, family: Family, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], owner: object,
        plain: Callable[[], AbstractContextManager[None]], lengthened: Callable[[Tensor, int], Tensor],
    ):  # fmt: skip
        self._family, self._module, self._args, self._kwargs, self._owner = family, module, args, kwargs, owner
        self._plain, self._lengthened = plain, lengthened

    def _rows(self, rows: list[int]) -> dict[str, Any]:
        """The arguments by name, for some rows."""
        call = inspect.signature(type(self._module).forward).bind(self._module, *self._args, **self._kwargs).arguments
        del call["self"]
        call.update(call.pop("kwargs", {}))
        total = len(call[self._family.sample])
        return {name: value if name in _NOT_ROWS else pick_rows(value, rows, total) for name, value in call.items()}

    def _again(self, module: nn.Module, call: dict[str, Any]) -> Tensor:
        token = running.set(self._owner)
        try:
            with self._plain():
                # Never compiled: each number of rows would be another graph.
                return module._call_impl(**{**call, "return_dict": False})[0]  # type: ignore[no-any-return]
        finally:
            running.reset(token)

    @torch.no_grad()
    def denoise(self, conditions: Encoded, rows: Sequence[int]) -> Tensor:
        """What the model predicts for these rows under other conditions; see ``Step.denoise``."""
        call = self._rows(list(rows))
        sample = call[self._family.sample]
        embeds, tokens = conditions.embeds.to(sample), call["encoder_hidden_states"].shape[1]
        call["encoder_hidden_states"] = self._lengthened(embeds, tokens).expand(len(rows), -1, -1)
        if conditions.pooled is not None and (path := self._family.pooled):
            pooled = conditions.pooled.to(sample).expand(len(rows), -1)
            call[path[0]] = {**call[path[0]], path[1]: pooled} if len(path) == 2 else pooled
        return self._again(self._module, call)

    def attend(self, rows: Sequence[int], loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """What these rows look at, and how a loss of that changes with the latents; see ``Conditions.attend``."""
        module = getattr(self._module, "_orig_mod", self._module)
        with torch.inference_mode(False):  # tensors of a caller's inference mode take no part in gradients: copies do
            call = pick_rows(self._rows(list(rows)), list(range(len(rows))), len(rows))
        sample = call[self._family.sample]

        def again(latents: Tensor) -> None:
            self._again(module, {**call, self._family.sample: with_latents(sample, latents)})

        with unskipped(module):
            return attend(module, again, latents_of(module, sample), loss)


def latents_of(module: nn.Module, sample: Tensor) -> Tensor:
    """Of what a denoiser is given the sampler's own latents: inpainting models get a mask and a picture, too."""
    channels = getattr(module.config, "out_channels", None)
    return sample if channels is None or sample.dim() < 4 else sample[:, : int(channels)]  # type: ignore[call-overload]


def with_latents(sample: Tensor, latents: Tensor) -> Tensor:
    """What a denoiser is given, with other latents of the sampler in it."""
    if latents.shape == sample.shape:
        return latents
    return torch.cat([latents, sample[:, latents.shape[1] :]], 1)
