"""Models by name: the embedded ones, any folder in diffusers format, any Hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import RegistryError
from .registry import default_registry


def load_model(name: str, **options: Any) -> Any:
    """A diffusers pipeline: ``emoji-sd``, a folder, or a Hub id; options go to ``from_pretrained``.

    Embedded weights are stored in fp16 and load in fp32 unless ``torch_dtype`` says otherwise.
    Raises RegistryError when there is no such model.
    """
    import torch
    from diffusers import DiffusionPipeline

    try:
        folder: str | Path = default_registry().model(name)
    except RegistryError as missing:
        if not Path(name).is_dir() and "/" not in name:
            raise missing from None
        folder = name
    options.setdefault("torch_dtype", torch.float32)
    try:
        pipe = DiffusionPipeline.from_pretrained(str(folder), use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        raise RegistryError(f"cannot load model '{name}': {str(error).splitlines()[0]}") from error
    pipe.name = name
    return pipe
