"""Weights that diffusers' group offloading keeps in files: between calls a module holds memory that nobody wrote to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from safetensors import safe_open
from torch import Tensor, nn


class Place(NamedTuple):
    """Where a weight is."""

    file: str
    key: str


def in_files(model: nn.Module) -> dict[int, Place]:
    """The places of such weights and buffers, by id."""
    registries = (vars(module).get("_diffusers_hook") for module in model.modules())
    hooks = (hook for registry in registries if registry is not None for hook in registry.hooks.values())
    groups = (group for hook in hooks if (group := getattr(hook, "group", None)) is not None)
    return {
        id(weight): Place(group.safetensors_file_path, key)
        for group in groups if group.offload_to_disk_path for weight, key in group.tensor_to_key.items()
    }  # fmt: skip


def fetch_from(models: Iterable[nn.Module]) -> Callable[[Tensor], Tensor | None]:
    """A function that reads such a weight, where it would lie now; of other ones it gives None."""
    places = {number: place for model in models for number, place in in_files(model).items()}

    def fetch(weight: Tensor) -> Tensor | None:
        place = places.get(id(weight))
        if place is None:
            return None
        with safe_open(place.file, framework="pt") as file:
            found: Tensor = file.get_tensor(place.key)
        return found.to(weight.device, weight.dtype)

    return fetch
