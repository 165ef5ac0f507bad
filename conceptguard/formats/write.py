"""Terms in the words of others. Each function returns (tensors, metadata), ready for safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from conceptguard.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.runtime.lowrank import Factors

    Written = tuple[dict[str, Tensor], dict[str, str]]

_KOHYA = {
    "unet": "lora_unet_",
    "transformer": "lora_unet_",
    "text_encoder": "lora_te_",
    "text_encoder_2": "lora_te2_",
    "text_encoder_3": "lora_te3_",
}


def to_kohya(terms: Mapping[str, Factors], metadata: Mapping[str, str] | None = None) -> Written:
    """kohya's form, which is SPM's as well: `lora_unet_<layer>.lora_down.weight`, `.lora_up.weight`,
    `.alpha`.

    ComfyUI and the web UIs load it as a LoRA that is always on. With a second text encoder the first is
    `lora_te1_`.
    """
    import torch

    two = any(name.startswith("text_encoder_2.") for name in terms)
    tensors: dict[str, Tensor] = {}
    for name, (down, up, scale) in terms.items():
        component, _, rest = name.partition(".")
        prefix = _KOHYA.get(component)
        if prefix is None:
            raise ArtifactError(f"layer {name!r}: kohya's format has no word for {component!r}: export as diffusers")
        if component == "text_encoder":
            prefix = "lora_te1_" if two else prefix
            # transformers 5 dropped this step of the path; programs that read kohya files still expect it.
            rest = rest if rest.startswith("text_model.") else f"text_model.{rest}"
        key = prefix + rest.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = down.clone()
        tensors[f"{key}.lora_up.weight"] = up.clone()
        tensors[f"{key}.alpha"] = torch.tensor(float(scale) * down.shape[0])
    ranks = sorted({int(one.down.shape[0]) for one in terms.values()})
    said = {"rank": str(ranks[-1]) if ranks else "0", "ss_network_module": "networks.lora"}
    return tensors, {**said, **(metadata or {})}


def to_diffusers(terms: Mapping[str, Factors], metadata: Mapping[str, str] | None = None) -> Written:
    """diffusers' form: `<component>.<layer>.lora_A.weight` and `.lora_B.weight`; the scale is multiplied into
    B.
    """
    tensors: dict[str, Tensor] = {}
    for name, (down, up, scale) in terms.items():
        tensors[f"{name}.lora_A.weight"] = down.clone()
        tensors[f"{name}.lora_B.weight"] = up.clone() if scale == 1 else up * scale
    return tensors, {"format": "pt", **(metadata or {})}


def to_uce(
    terms: Mapping[str, Factors],
    base_weights: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> Written:
    """UCE's form: `<layer>.weight` = base weight + scale · up · down, in fp32, for linear layers of the UNet."""
    tensors: dict[str, Tensor] = {}
    for name, (down, up, scale) in terms.items():
        component, _, rest = name.partition(".")
        if component not in ("unet", "transformer") or down.ndim != 2:
            raise ArtifactError(f"layer {name!r}: UCE files hold linear layers of the UNet only: export as kohya")
        weight = base_weights(name).detach().cpu().double()
        tensors[f"{rest}.weight"] = (weight + scale * (up.double() @ down.double())).float()
    return tensors, dict(metadata or {})
