"""Models by name: the embedded ones, any folder in diffusers' or transformers' format, any Hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import RegistryError
from ..registry import default_registry
from .diffusers.load import is_pipeline, load_pipeline
from .diffusers.quiet import quiet
from .transformers.load import load_language_model


def load_model(name: str, **options: Any) -> Any:
    """A diffusers pipeline (``emoji-sd``, a folder, a Hub id), or a ``LanguageModel`` (``authors-lm``, a folder or Hub
    id without ``model_index.json``). Options go to ``from_pretrained``.

    Embedded weights are stored in fp16 and load in fp32 unless ``torch_dtype`` says otherwise.
    Raises RegistryError when there is no such model.
    """
    try:
        folder: str | Path = default_registry().model(name)
    except RegistryError as missing:
        if not Path(name).is_dir() and "/" not in name:
            raise missing from None
        folder = name
    with quiet():
        import torch

        options.setdefault("torch_dtype", torch.float32)
        try:
            if is_pipeline(str(folder)):
                return load_pipeline(name, str(folder), options)
            return load_language_model(str(folder), options)
        except (OSError, ValueError) as error:
            raise RegistryError(f"cannot load model '{name}': {str(error).splitlines()[0]}") from error
