"""A model that is another one, trained a little further: its folder says of which, and holds what changed, as a LoRA.

``sibling.json`` names the base, what its scheduler has otherwise, and the height and width of latents where these are
others; ``change.safetensors`` is in kohya's form: ComfyUI and plain diffusers draw as the sibling does with the base,
that schedule, that size and that LoRA.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import ArtifactError, BaseMismatch, RegistryError
from ...files.atomic import read_limited

if TYPE_CHECKING:
    from ...runtime.lowrank import Factors, LayerIndex

MARK, CHANGE = "sibling.json", "change.safetensors"


def is_sibling(folder: Path) -> bool:
    """Whether a folder holds one."""
    return (folder / MARK).is_file()


def base_of(folder: Path) -> str:
    """The name of the model that was trained further. Raises RegistryError where the folder does not say."""
    return str(_said(folder)["base"])


def changes(pipe: Any, folder: Path) -> dict[str, Factors]:
    """What changed, by layers of the base's pipeline. Raises RegistryError for a change of another model."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ...formats import read_terms

    try:
        return read_terms(load_file(folder / CHANGE), {}, _layers(pipe))
    except (OSError, SafetensorError, ArtifactError, BaseMismatch) as error:
        raise RegistryError(f"{folder / CHANGE}: no change of '{base_of(folder)}' ({error})") from error


@torch.no_grad()
def changed(pipe: Any, folder: Path) -> Any:
    """The pipeline with what changed added to its weights. Raises RegistryError for a change of another model."""
    said, layers = _said(folder), _layers(pipe)
    for name, (down, up, scale) in changes(pipe, folder).items():
        weight: Any = layers[name].weight
        product = scale * up.float().flatten(1) @ down.float().flatten(1)
        weight.copy_(weight.float() + product.view_as(weight).to(weight.device))
    if said.get("scheduler"):
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **said["scheduler"])
    if said.get("sample_size"):
        pipe.unet.register_to_config(sample_size=said["sample_size"])
        return type(pipe).from_pipe(pipe)  # a pipeline asks once, when it is made, whether it draws squares
    return pipe


def _layers(pipe: Any) -> LayerIndex:
    from ...runtime.lowrank import LayerIndex

    return LayerIndex({name: it for name, it in pipe.components.items() if isinstance(it, torch.nn.Module)})


def _said(folder: Path) -> dict[str, Any]:
    try:
        said = json.loads(read_limited(folder / MARK, 64 * 1024))
    except ValueError:
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("base"), str):
        raise RegistryError(f'{folder / MARK}: does not name a base: write {{"base": "emoji-sd"}}')
    return said
