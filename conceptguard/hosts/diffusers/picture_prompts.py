"""Pictures as prompts, beside texts: an image adapter in IP-Adapter's form while something is learnt with it.

Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models", 2023. A picture is
handed on as tokens behind the adapter's projection, so that a method may change them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import PolicyError
from ...registry.signed.beside import shipped
from .quiet import quiet

FILE, ENCODER = "ip_adapter.safetensors", "image_encoder"  # in a folder of both
_TOKENS = 4  # of the plain kind of adapter


class _Given(nn.Module):
    """In the place of the projection that a denoiser has with an adapter: the tokens are made already."""

    def forward(self, tokens: list[Tensor]) -> list[Tensor]:
        return tokens


def given(module: Any, pictures: Tensor | None, rows: int) -> dict[str, list[Tensor]]:
    """What a denoiser that reads pictures is called with besides; zeros, which nothing is added for, without any."""
    if not isinstance(getattr(module, "encoder_hid_proj", None), _Given):
        return {}
    if pictures is None:
        pictures = torch.zeros(rows, _TOKENS, module.config.cross_attention_dim)
    return {"image_embeds": [pictures[:, None].to(module.device, module.dtype)]}


@contextmanager
def reading(module: Any, adapter: str) -> Iterator[None]:
    """Meanwhile a UNet has the adapter. Raises PolicyError for one of another model, and beside one of the user's."""
    if getattr(module, "encoder_hid_proj", None) is not None:
        raise PolicyError("the pipeline reads pictures already: unload its adapter first (unload_ip_adapter)")
    if not hasattr(module, "_load_ip_adapter_weights"):
        raise PolicyError(f"adapter {adapter}: a {type(module).__name__} has no place for one: take a UNet")
    processors, kind, tensors = dict(module.attn_processors), module.config.encoder_hid_dim_type, _read(adapter)
    try:
        with quiet():
            module._load_ip_adapter_weights([tensors], low_cpu_mem_usage=False)
        module.encoder_hid_proj = _Given()
        for parameter in (
            p for it in module.attn_processors.values() if isinstance(it, nn.Module) for p in it.parameters()
        ):
            parameter.requires_grad_(False)
        yield
    except (KeyError, RuntimeError) as error:
        if isinstance(module.encoder_hid_proj, _Given):
            raise
        raise PolicyError(
            f"adapter {adapter}: made for another model than this one: give an image adapter of this model (--set "
            f"adapter=FILE), as IP-Adapter has them ({error})"
        ) from error
    finally:
        module.set_attn_processor(processors)
        module.encoder_hid_proj = None
        module.register_to_config(encoder_hid_dim_type=kind)


@torch.no_grad()
def tokens(adapter: str, encoder: str | None, pictures: Tensor) -> Tensor:
    """Pictures [n, 3, height, width] in [0, 1] as the adapter's tokens, [n, tokens, width], float32, on the CPU.

    encoder: a folder, or what ships by a name; None: the one that lies with the adapter
    """
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    from ...generation.images import as_bytes

    projection, folder = _read(adapter)["image_proj"], _beside(adapter) if encoder is None else _folder(encoder)
    try:
        with quiet():
            tower = CLIPVisionModelWithProjection.from_pretrained(
                str(folder), dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
            if any(folder.glob("*processor_config.json")):
                processor = CLIPImageProcessor.from_pretrained(str(folder), local_files_only=True)
            else:  # IP-Adapter's own encoders come without one
                side = tower.config.image_size
                processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side)
    except (OSError, ValueError) as error:
        raise PolicyError(f"encoder {folder}: not a CLIP that reads pictures ({error})") from error
    pixels = processor(images=list(as_bytes(pictures)), return_tensors="pt", input_data_format="channels_last")
    seen = tower.eval()(pixels.pixel_values).image_embeds
    if seen.shape[1] != projection["proj.weight"].shape[1]:
        raise PolicyError(f"adapter {adapter}: made for another encoder of pictures than {folder}")
    found = nn.functional.linear(seen, projection["proj.weight"], projection["proj.bias"]).unflatten(1, (_TOKENS, -1))
    return nn.functional.layer_norm(found, found.shape[-1:], projection["norm.weight"], projection["norm.bias"])


def _read(adapter: str) -> dict[str, dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = _folder(adapter)
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    try:
        for name, tensor in load_file(place / FILE if place.is_dir() else place).items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor.float()
        if parts["image_proj"].keys() != {"proj.weight", "proj.bias", "norm.weight", "norm.bias"}:
            raise KeyError("image_proj")
    except (OSError, SafetensorError, KeyError) as error:
        raise PolicyError(f"adapter {adapter}: not an IP-Adapter of the plain kind ({error}): give its file") from error
    return parts


def _beside(adapter: str) -> Path:
    place = _folder(adapter)
    found = (place if place.is_dir() else place.parent) / ENCODER
    if not found.is_dir():
        raise PolicyError(
            f"adapter {adapter}: no {ENCODER} lies with it: name what it reads pictures by (--set encoder=FOLDER)"
        )
    return found


def _folder(name: str) -> Path:
    place = Path(name).expanduser()
    return place if place.exists() else shipped(f"models/{name}")
