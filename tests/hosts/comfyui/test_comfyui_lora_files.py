"""A LoRA file in ComfyUI's own names, beside every layer: an open guard predicts what ComfyUI does with the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sampling import encode
from test_comfyui_transformers import flux_prediction, noise, sd3, tokenizer_of_module, wan  # noqa: F401
from test_comfyui_twins import SMOKING, flux  # noqa: F401
from torch import Tensor, nn

from conceptguard import attach


def conditions(kind: str, clip: Any) -> tuple[Any, Tensor]:
    """(conditions, latents) for a kind of model."""
    if kind == "wan":
        return [[noise(1, 512, 64, seed=1), {}]], noise(1, 16, 3, 4, 4)
    if kind == "sd3":
        return encode(clip, SMOKING), noise(1, 16, 8, 8)
    return [[noise(1, 256, 64, seed=1), {"pooled_output": noise(1, 32, seed=2), "guidance": 3.5}]], noise(1, 4, 8, 8)


def lora(model: Any, spelled: Any) -> dict[str, Tensor]:
    """Of every linear layer of the original model, with one alpha of three."""
    torch.manual_seed(3)
    tensors = {}
    for number, (name, layer) in enumerate(model.model.diffusion_model.named_modules()):
        if isinstance(layer, nn.Linear):
            key = spelled(name)
            tensors[f"{key}.lora_down.weight"] = torch.randn(2, layer.in_features) / layer.in_features**0.5
            tensors[f"{key}.lora_up.weight"] = torch.randn(layer.out_features, 2) * 0.1
            if number % 3 == 0:
                tensors[f"{key}.alpha"] = torch.tensor(1.0)
    return tensors


SPELLED = {
    "kohya": lambda name: "lora_unet_" + name.replace(".", "_"),
    "comfyui": lambda name: f"diffusion_model.{name}",
}


@pytest.mark.parametrize("spelled", SPELLED)
@pytest.mark.parametrize("kind", ["flux", "sd3", "wan"])
def test_the_prediction_is_comfyui_s(kind: str, spelled: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    _, parts = request.getfixturevalue(kind)
    import comfy.sd

    tensors = lora(parts.model, SPELLED[spelled])
    save_file(tensors, tmp_path / "x.safetensors")
    with torch.inference_mode():
        text, x = conditions(kind, parts.clip)
        bare = flux_prediction(parts.model, text, x)
        want = flux_prediction(comfy.sd.load_lora_for_models(parts.model, None, tensors, 1.0, 1.0)[0], text, x)
        policy = {"guards": [{"method": "lora", "artifact": str(tmp_path / "x.safetensors"), "gate": "always"}]}
        with attach((parts.model, parts.clip), policy) as session:
            session.host.candidates = lambda: [SMOKING]
            got = flux_prediction(session.host.guarded(), text, x)
            assert len(session.banks.banks) >= len(tensors) // 3
    assert (want - bare).abs().max() > 0.01
    assert (got - want).abs().max() < 1e-4
