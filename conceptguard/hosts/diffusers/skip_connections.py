"""Skip connections of a UNet: what its down path hands to its up path, read or changed for one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ...generation.denoising import SkipChange, Skips

_ARGUMENT = "res_hidden_states_tuple"  # of every up block that diffusers has


@contextmanager
def recorded(unet: nn.Module) -> Iterator[list[Skips]]:
    """Meanwhile, what each up block is given, block by block, [rows, channels, height, width] each."""
    found: list[Skips] = []

    def look(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(kwargs[_ARGUMENT])

    handles = [block.register_forward_pre_hook(look, with_kwargs=True) for block in unet.up_blocks]  # type: ignore[union-attr]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def change(unet: nn.Module, changes: Sequence[SkipChange]) -> list[Any]:
    """Have up blocks be given changed features until the handles that this gives are removed."""
    handles = []
    for i, block in enumerate(unet.up_blocks):  # type: ignore[arg-type]
        mine = [(c.rows, c.blocks[i]) for c in changes if i in c.blocks]
        if mine:
            handles.append(block.register_forward_pre_hook(_with(mine), with_kwargs=True))
    return handles


def _with(changes: list[Any]) -> Any:
    def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        features = [f.clone() for f in kwargs[_ARGUMENT]]
        for rows, function in changes:
            for place, whole in enumerate(features):
                whole[rows] = function(place, whole[rows]).to(whole)
        return args, {**kwargs, _ARGUMENT: tuple(features)}

    return hook
