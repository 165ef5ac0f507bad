"""Siblings of an embedded pipeline: the same model with a change of its weights, of which only the change is kept.

``sibling.json`` names the base, and what its scheduler has otherwise. ``delta.safetensors`` has what is added to the
parameters of its parts, by the names that diffusers gives them: ``unet.mid_block.attentions.0.proj_in.weight`` as a
whole, or as ``….down`` [r, in] and ``….up`` [out, r], whose product it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...errors import RegistryError
from ...files.atomic import read_limited

MARK, DELTA = "sibling.json", "delta.safetensors"


def is_sibling(folder: Path) -> bool:
    """Whether a folder has but the change of another model."""
    return (folder / MARK).is_file()


def base_of(folder: Path) -> str:
    """The name of the model that a sibling is a change of."""
    return str(_said(folder)["base"])


def become(pipe: Any, folder: Path) -> Any:
    """The base's pipeline, with its weights changed in place. Raises RegistryError for a change of another model."""
    said = _said(folder)
    try:
        for name, change in _whole(load_file(folder / DELTA)).items():
            part, _, parameter = name.partition(".")
            weight = getattr(pipe, part).get_parameter(parameter)
            with torch.no_grad():
                weight += change.view(weight.shape).to(weight)
    except (OSError, SafetensorError, AttributeError, RuntimeError, KeyError) as error:
        told = str(error).splitlines()[0]
        raise RegistryError(f"{folder / DELTA}: no change of {said['base']} ({told}): pull it again") from None
    if said.get("scheduler"):
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **said["scheduler"])
    return pipe


def _said(folder: Path) -> dict[str, Any]:
    said = json.loads(read_limited(folder / MARK, 64 * 1024))
    if not isinstance(said, dict) or not isinstance(said.get("base"), str):
        raise RegistryError(f"{folder / MARK}: names no base: pull the model again")
    return said


def _whole(delta: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is added to each parameter, float32."""
    found = {}
    for key, tensor in delta.items():
        name, _, kind = key.rpartition(".")
        if kind == "down":
            found[name] = delta[f"{name}.up"].float() @ tensor.float()
        elif kind != "up":
            found[key] = tensor.float()
    return found
