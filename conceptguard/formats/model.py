"""What a model folder on disk says about its layers, read from safetensors headers: no torch, no weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from conceptguard.errors import RegistryError
from conceptguard.files.header import read_header
from conceptguard.formats.names import COMPONENTS

if TYPE_CHECKING:
    from torch import Tensor


def model_layers(folder: Path) -> dict[str, tuple[int, ...]]:
    """Canonical layer names and weight shapes ([out, in] or [out, in, kh, kw]) of a diffusers folder.

    Raises RegistryError for a folder without safetensors weights of a UNet, transformer or text encoder.
    """
    return {name: shape for name, (shape, _) in _places(folder).items()}


def model_weights(folder: Path) -> Callable[[str], Tensor]:
    """A function that reads one layer's weight from a diffusers folder by canonical name."""
    places = _places(folder)

    def weight(name: str) -> Tensor:
        from safetensors import safe_open

        _, file = places[name]
        with safe_open(file, framework="pt") as handle:
            found: Tensor = handle.get_tensor(name.partition(".")[2] + ".weight")
            return found

    return weight


def _places(folder: Path) -> dict[str, tuple[tuple[int, ...], Path]]:
    found: dict[str, tuple[tuple[int, ...], Path]] = {}
    for component in COMPONENTS:
        for file in sorted((folder / component).glob("*.safetensors")):
            for key, slot in read_header(file).tensors.items():
                if key.endswith(".weight") and len(slot.shape) in (2, 4) and "embeddings." not in key:
                    found[f"{component}.{key.removesuffix('.weight')}"] = (slot.shape, file)
    if not found:
        raise RegistryError(
            f"{folder}: no safetensors weights in unet/, transformer/ or text_encoder/: give a diffusers folder"
        )
    return found
