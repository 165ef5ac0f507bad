"""A ComfyUI core in this process, and a sampling by its own means: what benchmarks time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ConceptGuardError
from ...formats import to_kohya


def import_core(folder: Path) -> None:
    """Make ``comfy`` importable from a ComfyUI's folder. Raises ConceptGuardError where it is not."""
    if "comfy" in sys.modules:
        return
    if not (folder / "main.py").is_file():
        raise ConceptGuardError(f"{folder} has no main.py: give ComfyUI's folder")
    sys.path.insert(0, str(folder.resolve()))
    try:
        import comfy.cli_args

        comfy.cli_args.args.cpu = not torch.cuda.is_available()
        import comfy.sample
    except ImportError as error:
        raise ConceptGuardError(f"{folder} cannot be imported ({error}): run this with ComfyUI's own Python") from None


def lora_peers(model: Any, positive: Any, factors: Any) -> dict[str, tuple[Any, Any]]:
    """The one open membrane by ComfyUI's own means."""
    import comfy.hooks
    import comfy.lora

    tensors, _ = to_kohya(factors)
    patches = comfy.lora.load_lora(tensors, comfy.lora.model_lora_keys_unet(model.model, {}))
    patched = model.clone()
    patched.add_patches(patches, 1.0)
    hooks = comfy.hooks.create_hook_lora(tensors, 1.0, 1.0)
    return {
        "add_patches": (patched, positive),
        "weight hooks": (model.clone(), comfy.hooks.set_hooks_for_conditioning(positive, hooks)),
    }


def sample(model: Any, positive: Any, negative: Any, steps: int, side: int) -> Tensor:
    import comfy.sample

    latent = torch.zeros(1, 4, side, side)
    noise = comfy.sample.prepare_noise(latent, 1)
    out: Tensor = comfy.sample.sample(
        model, noise, steps, 3.5, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=1
    )
    return out
