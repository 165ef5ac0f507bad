"""Files as trainers write them, loaded by diffusers into pipelines and read here: the same change of every layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_artifacts import layers_of
from safetensors.torch import save_file
from tiny import tiny_sd, tiny_sdxl
from tiny_transformers import tiny_flux, tiny_sd3, tiny_wan
from torch import Tensor

from conceptguard.formats import read_terms

TEXT = "text_model.encoder.layers.0."


def kohya(names: dict[str, str], alpha: float = 3.0) -> Callable[[dict[str, Any]], dict[str, Tensor]]:
    """A writer: layers by canonical name, and how the file calls them; rank 2."""

    def write(shapes: dict[str, Any]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        tensors = {}
        for layer, key in names.items():
            out, into, *kernel = shapes[layer]
            tensors[f"{key}.lora_down.weight"] = torch.randn(2, into, *kernel)
            tensors[f"{key}.lora_up.weight"] = torch.randn(out, 2, *[1] * len(kernel))
            if alpha:
                tensors[f"{key}.alpha"] = torch.tensor(alpha)
        return tensors

    return write


def of_peft(names: dict[str, str]) -> Callable[[dict[str, Any]], dict[str, Tensor]]:
    """As ``kohya``, in peft's keys and without alphas."""
    plain = kohya(names, 0)

    def write(shapes: dict[str, Any]) -> dict[str, Tensor]:
        return {k.replace("lora_down", "lora_A").replace("lora_up", "lora_B"): t for k, t in plain(shapes).items()}

    return write


def every(shapes: Any, *parts: str) -> list[str]:
    return [name for name in shapes if any(part in name for part in parts)]


def musubi(shapes: dict[str, Any], prefix: str = "lora_unet_", dot: str = "_") -> dict[str, Tensor]:
    """Every layer of Wan's blocks, in the original words."""
    inside = {f"{kind}_attn.{one}": f"attn{n}.to_{'out.0' if one == 'o' else one}"
              for n, kind in ((1, "self"), (2, "cross")) for one in "qkvo"}  # fmt: skip
    inside |= {"ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2"}
    names = {
        f"transformer.blocks.{i}.{ours}": prefix + f"blocks.{i}.{theirs}".replace(".", dot)
        for i in range(2)
        for theirs, ours in inside.items()
    }
    return kohya(names)(shapes)


ATTENTION = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
FILES: dict[str, tuple[Any, Callable[[dict[str, Any]], dict[str, Tensor]]]] = {
    "SD 1, kohya": (tiny_sd, kohya({
        ATTENTION: "lora_unet_" + ATTENTION[5:].replace(".", "_"),
        "unet.down_blocks.1.resnets.0.conv1": "lora_unet_down_blocks_1_resnets_0_conv1",
        "unet.mid_block.attentions.0.proj_in": "lora_unet_mid_block_attentions_0_proj_in",
        "text_encoder.encoder.layers.0.mlp.fc1": "lora_te_text_model_encoder_layers_0_mlp_fc1",
    })),
    "SD 1, diffusers before peft": (tiny_sd, lambda shapes: {
        k.replace(".lora_down.", "_lora.down.").replace(".lora_up.", "_lora.up."): t
        for k, t in kohya({ATTENTION: ATTENTION.replace("attn2.", "attn2.processor.")}, 0)(shapes).items()
    }),
    "SDXL, kohya's original names": (tiny_sdxl, kohya({
        ATTENTION: "lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_k",
        "unet.down_blocks.0.downsamplers.0.conv": "lora_unet_input_blocks_2_0_op",
        "text_encoder.encoder.layers.0.mlp.fc1": "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "text_encoder_2.text_model.encoder.layers.1.mlp.fc2": "lora_te2_text_model_encoder_layers_1_mlp_fc2",
    })),
    "SDXL, diffusers": (tiny_sdxl, of_peft({
        ATTENTION: ATTENTION,
        "text_encoder.encoder.layers.0.self_attn.out_proj": f"text_encoder.{TEXT}self_attn.out_proj",
        "text_encoder_2.text_model.encoder.layers.0.self_attn.out_proj": f"text_encoder_2.{TEXT}self_attn.out_proj",
    })),
    "SD 3, diffusers": (tiny_sd3, of_peft({
        "transformer.transformer_blocks.0.attn.add_q_proj": "transformer.transformer_blocks.0.attn.add_q_proj",
        "transformer.transformer_blocks.1.ff.net.2": "transformer.transformer_blocks.1.ff.net.2",
        "text_encoder_2.text_model.encoder.layers.0.self_attn.out_proj": f"text_encoder_2.{TEXT}self_attn.out_proj",
    })),
    "FLUX, OneTrainer": (tiny_flux, kohya({
        "transformer.transformer_blocks.0.attn.to_q": "lora_transformer_transformer_blocks_0_attn_to_q",
        "transformer.single_transformer_blocks.0.attn.to_k": "lora_transformer_single_transformer_blocks_0_attn_to_k",
        "text_encoder.encoder.layers.0.self_attn.out_proj": "lora_te1_text_model_encoder_layers_0_self_attn_out_proj",
    })),
    "FLUX, kohya": (tiny_flux, lambda shapes: {**kohya({
        "transformer.transformer_blocks.0.ff.net.0.proj": "lora_unet_double_blocks_0_img_mlp_0",
        "transformer.transformer_blocks.0.attn.to_add_out": "lora_unet_double_blocks_0_txt_attn_proj",
        "transformer.single_transformer_blocks.0.proj_out": "lora_unet_single_blocks_0_linear2",
        "text_encoder.encoder.layers.0.mlp.fc1": "lora_te1_text_model_encoder_layers_0_mlp_fc1",
    })(shapes), **kohya({"qkv": "lora_unet_double_blocks_0_img_attn_qkv"})({"qkv": (96, 32)})}),
    "FLUX, ai-toolkit": (tiny_flux, lambda shapes: of_peft(
        {name: name for name in every(shapes, "attn.to_q", "ff.net.2", "proj_mlp")})(shapes)),
    "Wan, musubi": (tiny_wan, musubi),
    "Wan, ComfyUI": (tiny_wan, lambda shapes: musubi(shapes, "diffusion_model.", ".")),
}  # fmt: skip


def loaded(pipe: Any) -> dict[str, Tensor]:
    """What the adapters of a pipeline add to weights, as matrices."""
    changes = {}
    for component, model in pipe.components.items():
        for name, module in model.named_modules() if isinstance(model, torch.nn.Module) else ():
            for adapter in module.scaling if hasattr(module, "lora_A") else ():
                changes[f"{component}.{name}"] = module.get_delta_weight(adapter).detach().flatten(1)
    return changes


@pytest.mark.parametrize("case", FILES)
def test_every_layer_changes_as_in_diffusers(case: str, tokenizer: Any, tmp_path: Path) -> None:
    make, write = FILES[case]
    pipe = make(tokenizer)
    shapes = layers_of(pipe).shapes()
    tensors = write(shapes)
    save_file(tensors, tmp_path / "x.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="x.safetensors")
    want = loaded(pipe)
    read = read_terms(tensors, {}, shapes)
    assert set(read) == set(want) and want
    for name, change in want.items():
        down, up, scale = read[name]
        torch.testing.assert_close(scale * up.flatten(1) @ down.flatten(1), change, msg=name)
