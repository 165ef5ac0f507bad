"""Write a model that is another one with a change of its weights, as ``load_model`` reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from conceptguard.hosts.diffusers.sibling import DELTA, MARK


def write_sibling(
    folder: Path, base: str, delta: Mapping[str, Tensor | tuple[Tensor, Tensor]], scheduler: Mapping[str, Any]
) -> None:
    """`sibling.json` and `delta.safetensors`, in fp16.

    delta: what is added to each parameter, such as `unet.conv_in.weight`, whole or as (down [r, in], up [out, r])
    scheduler: of its configuration, what is not the base's
    """
    tensors: dict[str, Tensor] = {}
    for name, change in delta.items():
        parts = {name: change} if isinstance(change, Tensor) else {f"{name}.down": change[0], f"{name}.up": change[1]}
        tensors |= {key: part.detach().cpu().to(torch.float16).contiguous() for key, part in parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / DELTA)
    (folder / MARK).write_text(json.dumps({"base": base, "scheduler": dict(scheduler)}, indent=2) + "\n")
