"""Text encoders that learn to forget: which of their layers, and texts as a denoiser hears them, with gradients."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..errors import ArtifactError
from ..generation.conditioning import Encoded

if TYPE_CHECKING:
    from ..host import Host
    from ..protocols import TextEncoder
    from ..runtime.lowrank import LayerIndex

Parts = Literal["mlp", "attention", "mlp and last attention", "all"]
_LAYER = re.compile(r"\.layers\.(?P<number>\d+)\.(?P<part>mlp\.fc[12]|self_attn\.(?:q|k|v|out)_proj)$")


def clip_encoders(host: Host, method: str) -> Sequence[TextEncoder]:
    """The host's text encoders. Raises ArtifactError unless all are CLIP: others cannot be gated where they run."""
    encoders = host.encoders()
    other = next((encoder for encoder in encoders if not encoder.begins), None)
    if other is not None:
        raise ArtifactError(
            f"{other.name} of {host.name} is no CLIP text encoder, and {method} has terms beside those alone: use uce"
        )
    return encoders


def layers_beside(layers: LayerIndex, encoders: Sequence[TextEncoder], parts: Parts) -> list[str]:
    """Names of the encoders' linear layers that ``parts`` means, of those blocks that the denoiser hears.

    Raises ArtifactError when there are none.
    """
    found = []
    for encoder in encoders:
        for name in layers:
            match = _LAYER.search(name)
            if match is None or name.split(".", 1)[0] != encoder.name or int(match["number"]) >= encoder.heard:
                continue
            mlp, last = match["part"].startswith("mlp"), int(match["number"]) == encoder.heard - 1
            if parts == "all" or mlp == (parts != "attention") or (parts == "mlp and last attention" and last):
                found.append(name)
    if not found:
        raise ArtifactError("this model's text encoders have no layers mlp.fc1, self_attn.q_proj, ... of CLIP")
    return found


def conditions(
    encoders: Sequence[TextEncoder], texts: Sequence[str], empty: Encoded, prefixes: Sequence[Tensor] | None = None
) -> Encoded:
    """Texts as the denoiser hears them, with gradients. empty: the empty text, by which what is of no encoder is as
    long as it is to be; prefixes: input vectors [k, hidden] before every text, one tensor for each encoder; texts are
    cut where they stand in the way."""
    embeds, pools = torch.zeros(len(texts), *empty.embeds.shape[1:], device=empty.embeds.device), []
    ids: list[list[int]] = []
    for n, encoder in enumerate(encoders):
        prefix = prefixes[n] if prefixes else None
        room = encoder.window - (0 if prefix is None else len(prefix))
        own = [row[:room] for row in encoder.ids(texts)]
        ids = ids or own
        found, pooled = encoder.differentiable(own, prefix)
        if found is not None:
            embeds[:, encoder.tokens, encoder.width] = found.to(embeds)
        pools += [pooled] if pooled is not None else []
    return Encoded(embeds, ids, torch.cat(pools, -1) if pools else None)
