"""Models by name: the embedded ones, any folder in diffusers format, any Hub id."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import RegistryError
from .registry import default_registry

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def load_model(name: str, **options: Any) -> Any:
    """A diffusers pipeline: ``emoji-sd``, a folder, or a Hub id; options go to ``from_pretrained``.

    Embedded weights are stored in fp16 and load in fp32 unless ``torch_dtype`` says otherwise.
    Raises RegistryError when there is no such model.
    """
    try:
        folder: str | Path = default_registry().model(name)
    except RegistryError as missing:
        if not Path(name).is_dir() and "/" not in name:
            raise missing from None
        folder = name
    with _quiet():
        import torch
        from diffusers import DiffusionPipeline

        options.setdefault("torch_dtype", torch.float32)
        try:
            pipe = DiffusionPipeline.from_pretrained(str(folder), use_safetensors=True, **options)
        except (OSError, ValueError) as error:
            raise RegistryError(f"cannot load model '{name}': {str(error).splitlines()[0]}") from error
    pipe.name = name
    return pipe


def image_to_image(pipe: Any) -> Any:
    """The same model, sharing its weights, as a pipeline that starts from a picture."""
    with _quiet():
        from diffusers import AutoPipelineForImage2Image

        return AutoPipelineForImage2Image.from_pipe(pipe)


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
    """The torch dtype of ``fp32``, ``fp16`` or ``bf16`` (torch's own names count too). Raises RegistryError."""
    import torch

    full = _DTYPES.get(name, name)
    if full not in _DTYPES.values():
        raise RegistryError(f"unknown dtype '{name}': use {', '.join(_DTYPES)}")
    return getattr(torch, full)


@contextmanager
def _quiet() -> Iterator[None]:
    """No notes about optional packages and no bars for a load that takes a second; errors still come through."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _no_bars():
                yield
        finally:
            logging.disable(before)


@contextmanager
def _no_bars() -> Iterator[None]:
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    shown = [library for library in (diffusers, transformers) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
