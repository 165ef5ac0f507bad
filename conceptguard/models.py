"""Models by name: the embedded ones, any folder in diffusers' or transformers' format, any Hub id."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .errors import RegistryError
from .registry import default_registry

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class LanguageModel(NamedTuple):
    """A model of transformers that generates text, and its tokenizer: what ``attach`` takes as a pair."""

    model: Any
    tokenizer: Any

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self.model.device

    @property
    def name(self) -> str:
        """The name it was loaded by, or its folder's."""
        return Path(str(self.model.name_or_path)).name

    def to(self, device: Any) -> LanguageModel:
        """The same pair, the model moved."""
        self.model.to(device)
        return self


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
    with _quiet():
        import torch

        options.setdefault("torch_dtype", torch.float32)
        try:
            if _draws(str(folder)):
                return _pipeline(name, str(folder), options)
            return _language_model(str(folder), options)
        except (OSError, ValueError) as error:
            raise RegistryError(f"cannot load model '{name}': {str(error).splitlines()[0]}") from error


def _draws(folder: str) -> bool:
    """Whether a folder or Hub id is a pipeline of diffusers, which ``model_index.json`` tells."""
    if Path(folder).is_dir():
        return not (Path(folder) / "config.json").is_file()
    from diffusers import DiffusionPipeline

    try:
        DiffusionPipeline.load_config(folder)
    except OSError:
        return False
    return True


def _pipeline(name: str, folder: str, options: dict[str, Any]) -> Any:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **options)
    pipe.name = name
    return pipe


def image_to_image(pipe: Any) -> Any:
    """The same model, sharing its weights, as a pipeline that starts from a picture."""
    with _quiet():
        from diffusers import AutoPipelineForImage2Image

        return AutoPipelineForImage2Image.from_pipe(pipe)


def _language_model(folder: str, options: dict[str, Any]) -> LanguageModel:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    options["dtype"] = options.pop("torch_dtype")
    model = kind.from_pretrained(folder, use_safetensors=True, **options)
    return LanguageModel(model.eval(), transformers.AutoTokenizer.from_pretrained(folder))


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
