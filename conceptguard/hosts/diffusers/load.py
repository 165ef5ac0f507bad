"""Pipelines from a folder or the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .quiet import quiet


def is_pipeline(folder: str) -> bool:
    """Whether a folder or Hub id is a pipeline of diffusers, which ``model_index.json`` tells."""
    if Path(folder).is_dir():
        return not (Path(folder) / "config.json").is_file()
    from diffusers import DiffusionPipeline

    try:
        DiffusionPipeline.load_config(folder)
    except OSError:
        return False
    return True


def load_pipeline(name: str, folder: str, options: dict[str, Any]) -> Any:
    from diffusers import DiffusionPipeline

    absent = dict.fromkeys(_absent(Path(folder)))
    pipe = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **absent | options)
    pipe.name = name
    return pipe


def _absent(folder: Path) -> list[str]:
    """Parts that a pipeline was saved without, such as Stable Diffusion 3's T5: diffusers writes that they are null,
    and takes only those of them to be so that it can do without in any pipeline of the kind."""
    index = folder / "model_index.json"
    if not index.is_file():
        return []
    said = json.loads(index.read_text(encoding="utf-8"))
    return [name for name, value in said.items() if value == [None, None]]


def image_to_image(pipe: Any) -> Any:
    """The same model, sharing its weights, as a pipeline that starts from a picture."""
    with quiet():
        from diffusers import AutoPipelineForImage2Image

        return AutoPipelineForImage2Image.from_pipe(pipe)
