"""A whole model in one ``.safetensors`` file, as it is passed around for web UIs and ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import RegistryError
from ...files.header import read_header

# One layer of each kind's own names, and the pipeline that loads it; the first that fits counts.
_KINDS = (
    ("conditioner.embedders.1.model.", "StableDiffusionXLPipeline"),
    ("cond_stage_model.", "StableDiffusionPipeline"),
    ("joint_blocks.", "StableDiffusion3Pipeline"),
    ("double_blocks.", "FluxPipeline"),
)
_ADAPTER = ("lora_", ".lora", "lora_down", "hada_", "lokr_")


def load_checkpoint(name: str, file: Path, options: dict[str, Any]) -> Any:
    """The pipeline of a checkpoint. Raises RegistryError for a file that holds none.

    options: go to ``from_single_file``; ``config``, a diffusers folder or Hub id, says how large the parts are: without
    it diffusers asks the Hub for that of the kind's usual model
    """
    import diffusers

    options.pop("variant", None)
    config = options.get("config")
    kind = _named(config) or _kind(file)
    try:
        pipe = getattr(diffusers, kind).from_single_file(str(file), **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        told = str(error).strip().splitlines()[0][:200]
        hint = "the Hub could not be asked: give config" if config is None else "is config of the same kind of model?"
        raise RegistryError(
            f"cannot load checkpoint '{name}' as a {kind}: {told}; {hint} (--config), the folder or Hub id of a "
            "diffusers model with the same parts"
        ) from error
    pipe.name = file.stem  # what its artifacts are filed under
    return pipe


def _named(config: Any) -> str | None:
    """The pipeline that a folder is of."""
    if config is None or not Path(config).is_dir():
        return None
    from diffusers import DiffusionPipeline

    try:
        return str(DiffusionPipeline.load_config(str(config))["_class_name"])
    except OSError:
        raise RegistryError(f"config '{config}': no model_index.json there: give the folder of a whole model") from None


def _kind(file: Path) -> str:
    names = list(read_header(file).tensors)
    if any(part in name for part in _ADAPTER for name in names):
        raise RegistryError(
            f"'{file}' is a LoRA or the like, not a model: bring it in with `conceptguard import {file} --as lora`, "
            "and name it in a policy"
        )
    for mark, kind in _KINDS:
        if any(mark in name for name in names):
            return kind
    raise RegistryError(
        f"'{file}' is no whole model (its first tensor is {names[0] if names else 'missing'}): give the folder of a "
        "diffusers model, or a checkpoint that holds text encoder, denoiser and VAE"
    )
