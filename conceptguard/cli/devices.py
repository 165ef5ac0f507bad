"""Where and in what to compute, as the command line names it."""

from __future__ import annotations

from typing import Any

from ..errors import RegistryError
from .options import Usage

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def pick_device(name: str | None = None) -> str:
    """``name``, or the best there is: cuda, mps, cpu. Raises RegistryError when the named one is not here."""
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        return next(device for device, there in here.items() if there)
    kind = name.split(":")[0]
    if not here.get(kind, kind not in here):
        there = ", ".join(device for device, yes in here.items() if yes)
        raise RegistryError(f"no device '{name}' here: use {there}, or leave it out")
    return name


def pick_dtype(name: str) -> Any:
    """The torch dtype of ``fp32``, ``fp16`` or ``bf16`` (torch's own names count too). Raises Usage."""
    import torch

    full = _DTYPES.get(name, name)
    if full not in _DTYPES.values():
        raise Usage(f"unknown dtype '{name}': use {', '.join(_DTYPES)}")
    return getattr(torch, full)
