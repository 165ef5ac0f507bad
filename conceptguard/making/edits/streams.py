"""Where text enters a denoiser: the layers that an edit in closed form can reach, by what they read.

Stable Diffusion 1.x, 2.x and SDXL read token states in every cross-attention; SDXL a pooled vector besides, in front of
its time ids. Stable Diffusion 3, FLUX and Wan read states through one layer at the door, from which every block's keys
and values follow, and the first two a pooled vector through another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...errors import ArtifactError
from ...formats import write_edit
from .rows import Kind, channels, sample
from .solver import Edit

if TYPE_CHECKING:
    from ...formats.lora import BaseWeights
    from ...host import Host
    from ...runtime.lowrank import LayerIndex

_DOORS: dict[Kind, re.Pattern[str]] = {
    "states": re.compile(
        r"unet\..+\.attn2\.to_[kv]|transformer\.(context_embedder|condition_embedder\.text_embedder\.linear_1)"
    ),
    "pooled": re.compile(r"unet\.add_embedding\.linear_1|transformer\.time_text_embed\.text_embedder\.linear_1"),
}


class Stream(NamedTuple):
    """Layers that read the same of a prompt.

    weights: [out, d] by layer, of the inputs that are the text and say anything; inputs: how many a layer has, those
    of other things behind them included; channels: which of the text's inputs say anything, indices [d]
    """

    kind: Kind
    weights: dict[str, Tensor]
    inputs: int
    channels: Tensor

    def widened(self, rows: Tensor, width: int) -> Tensor:
        """Rows [r, d] as [r, width]: zeros for inputs that say nothing, and for those of other things."""
        found = rows.new_zeros(len(rows), width)
        found[:, self.channels.to(rows.device)] = rows
        return found


def streams_of(host: Host) -> list[Stream]:
    """The streams of a host's model, token states first. Raises ArtifactError when there are none, or when weights are
    not at hand as numbers.
    """
    layers, empty = host.layers(), sample(host)
    widths: dict[Kind, int] = {"states": empty.embeds.shape[-1]}
    said = {"states": channels(host)}
    if empty.pooled is not None:
        widths["pooled"] = empty.pooled.shape[-1]
        said["pooled"] = torch.arange(widths["pooled"])
    found = [_stream(layers, host.weights(), kind, width, said[kind]) for kind, width in widths.items()]
    if not found[0].weights:
        raise ArtifactError(
            f"{host.name} has none of the layers that an edit in closed form changes: keys and values of a UNet's "
            "cross-attention, or the door of a transformer's text stream"
        )
    return [stream for stream in found if stream.weights]


def _stream(layers: LayerIndex, weight: BaseWeights, kind: Kind, width: int, said: Tensor) -> Stream:
    weights, inputs = {}, width
    for name in layers:
        if _DOORS[kind].fullmatch(name) is None:
            continue
        found = weight(name)
        if not found.is_floating_point() or found.is_meta or found.ndim != 2:
            raise ArtifactError(f"the weights of {name} are quantised or offloaded: make the edit on a plain model")
        if found.shape[1] < width:
            raise ArtifactError(f"{name} reads {found.shape[1]} numbers, the text encoders give {width}: another model")
        weights[name], inputs = found[:, said.to(found.device)], int(found.shape[1])
    return Stream(kind, weights, inputs, said)


def tensors_of(edits: Mapping[Kind, Edit], streams: list[Stream]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """An artifact's tensors, and metadata that says which layers they are of; see ``formats.edit``.

    Raises ArtifactError for edits that change nothing.
    """
    if not any(len(edits[stream.kind].down) for stream in streams):
        raise ArtifactError("the edit changes nothing: what should appear instead is what is to be erased")
    kept = [stream for stream in streams if len(edits[stream.kind].down)]
    whole = {}
    for stream in kept:
        width = int(stream.channels[-1]) + 1  # what a file says is of a layer's first inputs
        down, shift = (stream.widened(part, width) for part in edits[stream.kind])
        whole[stream.kind] = down, shift, stream.weights
    return write_edit(whole)
