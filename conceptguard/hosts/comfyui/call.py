"""One call of a ComfyUI diffusion model, and how to make it again for some rows, with every guard out of the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import GuardError
from ...generation.conditioning import Encoded
from ...generation.denoising import SkipChange, Skips
from ...runtime.bank import running
from ..denoising.attention_maps import attend
from ..denoising.families import XL
from ..denoising.rows import pick_rows
from .caches import uncached

if TYPE_CHECKING:
    from .model import GuardedModel

_SIZES = 6 * 256  # numbers that stand behind SDXL's pooled embedding in ``y``


class closed:
    """No session's terms act meanwhile."""

    # A host, whose session may ask its model something meanwhile.
    def __init__(self, owner: object):
        self._owner = owner

    def __enter__(self) -> None:
        self._token = running.set(self._owner)

    def __exit__(self, *_: object) -> None:
        running.reset(self._token)


class ComfyCall:
    """module(sample, timestep, **kwargs), as the host's hook saw it before it ran.

    latents: what of ``sample`` is the sampler's own: inpainting models are given a mask and a picture, too
    context: the embeddings [rows, tokens, width]; pooled: the pooled ones, with which ``y`` begins, or None
    """

    def __init__(
        self, host: GuardedModel, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], channels: int
    ):
        self._host, self._module, self._channels = host, module, channels
        self.sample, self.timestep = args[:2]
        self.options: dict[str, Any] = kwargs.get("transformer_options") or {}
        self.context: Tensor = kwargs["context"]
        # The model takes a ControlNet's additions off these lists while it runs.
        control = kwargs.get("control")
        self._kwargs = {**kwargs, "control": {n: list(v) for n, v in control.items()} if control else control}

    @property
    def latents(self) -> Tensor:
        return self.sample[:, : self._channels]

    @property
    def pooled(self) -> Tensor | None:
        y = self._kwargs.get("y")
        return None if y is None or not self._host.family.pooled else y[:, : self._width]

    @property
    def _width(self) -> int:
        return int(self._kwargs["y"].shape[1]) - (_SIZES if self._host.family is XL else 0)

    @property
    def time(self) -> Tensor:
        """The timestep, of 1,000."""
        return self.timestep * self._host.family.clock  # type: ignore[no-any-return]

    def with_sample(self, sample: Tensor) -> ComfyCall:
        """The same with other latents."""
        call = object.__new__(ComfyCall)
        call.__dict__ = {**self.__dict__, "sample": sample}
        return call

    def changed(
        self, embeds: Tensor, pooled: Tensor | None, by: Tensor | None, skips: Sequence[SkipChange]
    ) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
        """The arguments after guards: other embeddings, latents moved by ``by``, other skip features. These keep the
        lists of ControlNet's additions that ComfyUI itself looks at."""
        new: dict[str, Any] = {"context": embeds}
        if pooled is not None and pooled is not self.pooled:
            new["y"] = torch.cat([pooled, self._kwargs["y"][:, self._width :]], dim=1)
        if skips:
            new["transformer_options"] = self._at_skips(self.options, _changing(skips))
        sample = self.sample
        if by is not None:
            sample = torch.cat([self.latents + by.to(sample), sample[:, self._channels :]], dim=1)
        return (sample, self.timestep), new

    @torch.no_grad()
    def denoise(self, conditions: Encoded, rows: Sequence[int]) -> Tensor:
        """What the model predicts for these rows under other conditions; see ``Step.denoise``."""
        return self._again(*self._of(list(rows), conditions))

    @torch.no_grad()
    def skips(self, conditions: Encoded, rows: Sequence[int]) -> list[Skips]:
        """What the model hands to each of its up blocks for these rows; see ``Conditions.skips``."""
        if self._host.compiled():
            raise GuardError("a compiled model's skip connections cannot be read: leave it uncompiled")
        found: dict[int, dict[int, Tensor]] = {}

        def look(block: int, place: int, feature: Tensor) -> Tensor:
            found.setdefault(block, {})[place] = feature
            return feature

        sample, call = self._of(list(rows), conditions)
        call["transformer_options"] = self._at_skips(call["transformer_options"], look)
        self._again(sample, call)
        return [tuple(features[i] for i in sorted(features)) for _, features in sorted(found.items())]

    def attend(self, rows: Sequence[int], loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """What these rows look at, and how a loss of that changes with the latents; see ``Conditions.attend``."""
        with torch.inference_mode(False):  # tensors of inference mode take no part in gradients: copies do
            sample, call = self._of(list(rows), None)
            call["transformer_options"]["optimized_attention_override"] = _differentiable
            weights = _differentiable_weights(self._module)

        def again(latents: Tensor) -> None:
            whole = torch.cat([latents, sample[:, self._channels :]], dim=1)
            with closed(self._host):
                torch.func.functional_call(self._module, weights, (whole, self._times(whole)), call)

        return attend(self._module, again, sample[:, : self._channels], loss)

    def _of(self, rows: list[int], conditions: Encoded | None) -> tuple[Tensor, dict[str, Any]]:
        """(sample, arguments) for some rows, under other conditions or their own."""
        total = len(self.sample)
        if total % len(self.options.get("cond_or_uncond") or [0]):
            raise GuardError(
                "guards that ask the model again need to know which rows of a batch belong together, and another node "
                "split it: take that node out of the graph"
            )
        call = {n: pick_rows(value, rows, total) for n, value in self._kwargs.items() if n != "transformer_options"}
        call["transformer_options"] = uncached(_of_rows(self.options, rows, total))
        sample = self.sample[rows]
        if conditions is not None:
            call["context"] = conditions.embeds.to(sample).expand(len(rows), -1, -1)
            if conditions.pooled is not None and self.pooled is not None:
                pooled = conditions.pooled.to(sample).expand(len(rows), -1)
                call["y"] = torch.cat([pooled, call["y"][:, self._width :]], dim=1)
        return sample, call

    def _again(self, sample: Tensor, call: dict[str, Any]) -> Tensor:
        with closed(self._host):
            # Never compiled: each number of rows would be another graph.
            return self._module._call_impl(sample, self._times(sample), **call)  # type: ignore[no-any-return]

    def _times(self, sample: Tensor) -> Tensor:
        return self.timestep[:1].repeat(len(sample))

    def _at_skips(self, options: dict[str, Any], change: Callable[[int, int, Tensor], Tensor]) -> dict[str, Any]:
        """Options under which each skip feature goes through ``change(up block, place among its skips, feature)``."""
        unet: Any = self._module
        sizes = [count + 1 for count in reversed(unet.num_res_blocks)]
        places = [(block, place) for block, size in enumerate(sizes) for place in reversed(range(size))]

        def patch(h: Tensor, skip: Tensor, called: dict[str, Any]) -> tuple[Tensor, Tensor]:
            block, place = places[called["block"][1]]
            return h, change(block, place, skip)

        patches = dict(options.get("patches") or {})
        # Before those of other nodes, which then act on what guards made, as FreeU in diffusers does.
        patches["output_block_patch"] = [patch, *patches.get("output_block_patch", ())]
        return {**options, "patches": patches}


def _changing(changes: Sequence[SkipChange]) -> Callable[[int, int, Tensor], Tensor]:
    def change(block: int, place: int, feature: Tensor) -> Tensor:
        mine = [(c.rows, c.blocks[block]) for c in changes if block in c.blocks]
        feature = feature.clone() if mine else feature
        for rows, function in mine:
            feature[rows] = function(place, feature[rows]).to(feature)
        return feature

    return change


def _of_rows(options: dict[str, Any], rows: list[int], total: int) -> dict[str, Any]:
    """ComfyUI's notes about a call, for some of its rows: each is a chunk of its own."""
    kept = dict(options)
    for name in ("cond_or_uncond", "uuids"):
        chunks = options.get(name)
        if chunks:
            kept[name] = [chunks[row * len(chunks) // total] for row in rows]
    return kept


def _differentiable(function: Any, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's own attention in place of whichever ComfyUI chose: of the others most have no gradients."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(*args, **kwargs)  # type: ignore[no-any-return]


def _differentiable_weights(module: nn.Module) -> dict[str, Tensor]:
    """Weights that were loaded in inference mode, as a server's are, once more over the same memory: gradients go
    through these."""
    return {
        name: torch.empty(0, dtype=t.dtype, device=t.device).set_(
            t.untyped_storage(), t.storage_offset(), t.shape, t.stride()
        )
        for name, t in chain(module.named_parameters(), module.named_buffers())
        if t.is_inference()
    }
