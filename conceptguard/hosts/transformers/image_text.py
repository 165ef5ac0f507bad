"""A model that reads pictures and texts into one space, such as CLIP and SigLIP, from a folder on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import RegistryError, shown
from ...generation.images import as_bytes


def is_image_text(folder: Path) -> bool:
    """Whether a folder's configuration has a part for texts and a part for pictures."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and {"text_config", "vision_config"} <= config.keys()


class ImageText:
    """Texts and pictures as directions in one space, each of length 1. scale: what cosines are multiplied by."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model.eval().requires_grad_(False), processor
        self.scale = float(model.logit_scale.exp()) if hasattr(model, "logit_scale") else 100.0
        # SigLIP was trained on texts that fill the window, and says something else about shorter ones.
        self.padding = "max_length" if model.config.model_type.startswith("siglip") else True

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """[n, width]."""
        given = self.processor(text=list(texts), padding=self.padding, truncation=True, return_tensors="pt")
        given = {name: value.to(self.model.device) for name, value in given.items()}
        return _directions(self.model.get_text_features(**given))

    @torch.no_grad()
    def pictures(self, pixels: Tensor) -> Tensor:
        """[n, width], of pictures [n, 3, h, w] in [0, 1]."""
        return _directions(self.model.get_image_features(**self._given(pixels)))

    def seen(self, pixels: Tensor) -> Tensor:
        """As ``pictures``, where gradients are to go through: resized by interpolation, [n, width] on their device."""
        how = self.processor.image_processor
        size = how.size.get("shortest_edge") or how.size["height"]
        given = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)
        mean, spread = (torch.tensor(one).view(3, 1, 1).to(given) for one in (how.image_mean, how.image_std))
        found = self.model.get_image_features(pixel_values=((given - mean) / spread).to(self.model.dtype))
        found = found if isinstance(found, Tensor) else found.pooler_output
        return F.normalize(found.float(), dim=-1)

    @torch.no_grad()
    def states(self, pixels: Tensor, before: int) -> Tensor:
        """[n, width of the tower]: what it holds ``before`` layers before its end, the mean over places."""
        held = self.model.vision_model(**self._given(pixels), output_hidden_states=True).hidden_states
        if not 0 <= before < len(held):
            raise RegistryError(f"a tower of {len(held) - 1} layers has none {before} before its end: name fewer")
        found: Tensor = held[-1 - before].float().cpu().mean(1)
        return found

    def _given(self, pixels: Tensor) -> dict[str, Tensor]:
        given = self.processor(images=list(as_bytes(pixels)), return_tensors="pt", input_data_format="channels_last")
        kind = self.model.dtype
        given = {name: value.to(self.model.device) for name, value in given.items()}
        return {name: value.to(kind) if value.is_floating_point() else value for name, value in given.items()}


def _directions(found: Any) -> Tensor:
    """Releases of transformers give a tensor, or an output that has it."""
    tensor = found if isinstance(found, Tensor) else found.pooler_output
    return F.normalize(tensor.float().cpu(), dim=-1)


def load_image_text(folder: Path) -> ImageText:
    """From a folder in transformers' format, without a network and without code of its own. Raises RegistryError."""
    from transformers import AutoModel, AutoProcessor

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model = AutoModel.from_pretrained(str(folder), use_safetensors=True, **options)
        processor = AutoProcessor.from_pretrained(str(folder), **options)
    except Exception as error:  # transformers', safetensors' and json's own
        raise RegistryError(
            f"{folder}: no model of pictures and texts that can be loaded ({shown(error)}): give a folder of CLIP or "
            "SigLIP with model.safetensors, its tokenizer and preprocessor_config.json"
        ) from error
    if not (hasattr(model, "get_text_features") and hasattr(model, "get_image_features")):
        raise RegistryError(
            f"{folder}: a {type(model).__name__} does not compare pictures with texts: give CLIP or SigLIP"
        )
    return ImageText(model, processor)
