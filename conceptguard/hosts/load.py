"""Models by name: the embedded ones, a folder in diffusers' or transformers' format, one file, a Hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import RegistryError
from ..registry import default_registry
from .diffusers.load import is_pipeline, load_pipeline
from .diffusers.quiet import quiet
from .diffusers.sibling import base_of, changed, is_sibling
from .diffusers.single_file import load_checkpoint
from .modules.load import is_classifier, is_generator, is_graph, load_classifier, load_generator, load_graph
from .no_model import check_file, why_not, written_as_path
from .onnx_genai.load import is_onnx, load_onnx_model
from .transformers.load import load_language_model


def load_model(name: str, **options: Any) -> Any:
    """A diffusers pipeline (``emoji-sd``, a folder, also one that holds another model's name and what changed, a single
    ``.safetensors`` checkpoint, a Hub id), or a
    ``LanguageModel`` (``authors-lm``, a folder or Hub id without ``model_index.json``, a folder from the builder of
    onnxruntime-genai), or a ``torch.nn.Module`` (``emoji-classifier``, of which ``variant="vit"`` is the other net;
    ``emoji-gan``, a generator; ``emoji-graph``, a net over a graph). Options go to ``from_pretrained``, e.g.
    ``variant="fp16"``; of a single file to ``from_single_file``, e.g. ``config=FOLDER``.

    Embedded weights are stored in fp16 and load in fp32 unless ``torch_dtype`` says otherwise.
    Raises RegistryError when there is no such model, with the nearest there is.
    """
    options = {key: value for key, value in options.items() if value is not None}
    folder = _place(name)
    with quiet():
        import torch

        options.setdefault("torch_dtype", torch.float32)
        try:
            if folder.is_file():
                check_file(folder)
                return load_checkpoint(name, folder, options)
            options.pop("config", None)
            if is_sibling(folder):
                base = base_of(folder)
                if is_sibling(_place(base)):
                    raise RegistryError(
                        f"model '{name}' is a change of '{base}', which is a change itself: give a whole model"
                    )
                pipe = changed(load_model(base, **options), folder)
                pipe.name = folder.name
                return pipe
            if is_classifier(folder):
                return load_classifier(name, folder, options)
            if is_generator(folder):
                return load_generator(name, folder, options)
            if is_graph(folder):
                return load_graph(name, folder, options)
            if is_onnx(folder):
                return load_onnx_model(folder)
            if is_pipeline(str(folder)):
                return load_pipeline(name, str(folder), options)
            return load_language_model(str(folder), options)
        except RegistryError:
            raise
        except (OSError, ValueError) as error:
            raise RegistryError(why_not(name, folder, error, options.get("variant"))) from error


def _place(name: str) -> Path:
    """Where a model is: an embedded one's folder, a path that is there, or what may be a Hub id."""
    path = Path(name).expanduser()
    if not written_as_path(name):
        registry = default_registry()
        try:
            return registry.model(name)
        except RegistryError:
            # One that is embedded and not what was signed is refused, and nothing else is taken in its place.
            embedded = any(name in source.models() for source in registry.sources)
            if embedded or (not path.exists() and name.count("/") != 1):
                raise
    if path.exists() or (name.count("/") == 1 and not written_as_path(name)):
        return path
    raise RegistryError(why_not(name, path, None, None))
