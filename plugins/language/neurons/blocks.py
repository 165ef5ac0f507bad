"""Where feed-forward blocks are, and the vectors of their neurons: what each is moved by, and what it writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from conceptguard.errors import PolicyError

_DOWN = re.compile(r"\.(\d+)\.mlp\.(?:down_proj|c_proj)$")
_UP = {"down_proj": "up_proj", "c_proj": "c_fc"}


class Block(NamedTuple):
    """A feed-forward block: its number, its name, and the names of the layers that it begins and ends with."""

    number: int
    name: str
    up: str
    down: str


def feed_forward_of(host: Any, wanted: Sequence[int], what: str) -> list[Block]:
    """Blocks by their numbers, or all of them. what: wants them, for errors. Raises PolicyError."""
    there = {}
    for name in host.text_layers():
        if found := _DOWN.search(name):
            block, _, last = name.rpartition(".")
            there[int(found[1])] = Block(int(found[1]), block, f"{block}.{_UP[last]}", name)
    if not there:
        raise PolicyError(
            f"{host.name} has no mlp.down_proj (as Llama-type models) nor mlp.c_proj (as GPT-2) that could be edited: "
            f"{what} is for these"
        )
    for number in wanted:
        if number not in there:
            raise PolicyError(f"{what}: there is no layer {number}: {host.name} has 0 to {max(there)}")
    return [there[number] for number in sorted(set(wanted) or there)]


def weight_of(host: Any, name: str) -> Tensor:
    """A layer's weight, [out, in], float32. Raises PolicyError where it is not there as plain numbers."""
    if name not in host.layers():
        raise PolicyError(f"{host.name} has no layer {name}, which a block of its kind begins with: give another model")
    layer = host.layers()[name]
    weight = getattr(layer, "weight", None)
    shape = (layer.out_features, layer.in_features)
    # Of packed ones the weight may be a function.
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or tuple(weight.shape) != shape:
        kept = f"{type(layer).__name__}, {getattr(weight, 'dtype', 'packed')}"
        raise PolicyError(
            f"layer {name} is quantised ({kept}), and its neurons cannot be read: use the model in 16 or 32 bits here; "
            "what is made of it also acts beside the quantised layers"
        )
    if weight.is_meta:
        raise PolicyError(f"layer {name} is offloaded and not in memory: load the model whole, without offload, here")
    found: Tensor = weight.detach().float()
    return found
