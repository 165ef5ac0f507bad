"""Names of the original FLUX, Stable Diffusion 3, Wan and UNet, beside what diffusers makes of checkpoints in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from diffusers.loaders import lora_conversion_utils as of_loras
from diffusers.loaders import single_file_utils as of_files
from torch import Tensor

from conceptguard.errors import BaseMismatch
from conceptguard.formats import read_terms
from conceptguard.runtime.lowrank import Factors

RANK = 2


class Checkpoint(dict[str, Tensor]):
    """Every weight that the converter asks for, random, and what it asked for."""

    def __init__(self, size: Callable[[str], int], **first: Tensor):
        super().__init__(first)
        self.size, self.asked = size, dict[str, Tensor]()

    def pop(self, key: str, *_: Any) -> Tensor:
        self.asked[key] = dict.pop(self, key, torch.randn(self.size(key), RANK))
        return self.asked[key]


def flux() -> tuple[dict[str, Tensor], Mapping[str, Tensor], int]:
    """(original weights, the same in diffusers' names and parts, width of the inputs)"""
    width = 3072  # which the converter takes for granted

    def size(key: str) -> int:
        return width * (7 if ".linear1." in key else 3 if ".qkv." in key else 2)

    numbers = {f"{kind}_blocks.1.{rest}": torch.zeros(2) for kind, rest in (("double", "x"), ("single", "x"))}
    made = Checkpoint(size, **numbers)
    return made.asked, of_files.convert_flux_transformer_checkpoint_to_diffusers(made), width


def sd3() -> tuple[dict[str, Tensor], Mapping[str, Tensor], int]:
    """As ``flux``; the second of two blocks is the last, whose text goes nowhere."""
    width = 8
    made = Checkpoint(lambda key: width * (3 if ".qkv." in key else 2))
    made |= {f"joint_blocks.{i}.x_block.attn2.{part}": torch.randn(24 if "qkv" in part else 8, RANK)
             for i in range(2) for part in ("qkv.weight", "proj.weight")}  # fmt: skip
    made["context_embedder.weight"] = torch.randn(width, RANK)
    return made.asked, of_files.convert_sd3_transformer_checkpoint_to_diffusers(made), width


def wan() -> tuple[dict[str, Tensor], Mapping[str, Tensor], int]:
    """As ``flux``."""
    attention = [f"{kind}_attn.{one}" for kind in ("self", "cross") for one in "qkvo"]
    inside = [*attention, "cross_attn.k_img", "cross_attn.v_img", "ffn.0", "ffn.2"]
    names = [f"blocks.{i}.{name}" for i in range(2) for name in inside]
    names += ["time_embedding.0", "time_embedding.2", "text_embedding.0", "text_embedding.2", "time_projection.1"]
    names += ["head.head", "img_emb.proj.1", "img_emb.proj.3"]
    made = {f"{name}.weight": torch.randn(8, RANK) for name in names}
    return dict(made), of_files.convert_wan_transformer_to_diffusers(made), 8


SPELLED = {
    "kohya": lambda name: "lora_unet_" + name.replace(".", "_"),
    "comfyui": lambda name: "diffusion_model." + name,
    "peft": lambda name: "base_model.model." + name,
    "wan fun": lambda name: "lora_unet__" + name.replace(".", "_"),
}


@pytest.mark.parametrize("spelled", SPELLED)
@pytest.mark.parametrize("model", [flux, sd3, wan], ids=lambda f: f.__name__)
def test_layers_and_parts_are_those_of_diffusers(model: Any, spelled: str) -> None:
    torch.manual_seed(0)
    theirs, ours, width = model()
    theirs = {k.removesuffix(".weight"): t for k, t in theirs.items() if k.endswith(".weight") and t.ndim == 2}
    want = {f"transformer.{k.removesuffix('.weight')}": t for k, t in ours.items() if k.endswith(".weight")}
    written = {name: name for name in theirs if ".norm" not in name and "_norm" not in name and ".ln_" not in name}
    down = torch.randn(RANK, width)
    tensors = {}
    for name in written:
        key = SPELLED[spelled](name)
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": theirs[name]}
    read = read_terms(tensors, {}, list(want))
    assert len(read) >= len(written) and all(torch.equal(read[name].up, want[name]) for name in read)
    assert set(read) == {n for n in want if not any(part in n for part in (".norm_q", ".norm_k", ".norm_added"))}


def test_parts_trained_apart_have_ranks_of_their_own() -> None:
    """kohya's `split_qkv` puts three LoRAs into one tensor, with zeros between: only the own rank stays."""
    down, up = torch.randn(6, 8), torch.zeros(24, 6)
    for i in range(3):
        up[8 * i : 8 * i + 8, 2 * i : 2 * i + 2] = torch.randn(8, 2)
    layers = [f"transformer.transformer_blocks.0.attn.to_{one}" for one in "qkv"]
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(3.0)}
    theirs = of_loras._convert_kohya_flux_lora_to_diffusers(dict(tensors))
    for name, (mine, out, scale) in read_terms(tensors, {}, layers).items():
        assert len(mine) == 2 and scale == 0.5
        want = theirs[f"{name}.lora_B.weight"] @ theirs[f"{name}.lora_A.weight"]
        torch.testing.assert_close(scale * out @ mine, want)


def test_xlabs_files() -> None:
    torch.manual_seed(0)
    tensors = {}
    for block, parts in (("double_blocks.0", ("qkv_lora1", "qkv_lora2", "proj_lora1", "proj_lora2")),
                         ("single_blocks.0", ("qkv_lora", "proj_lora"))):  # fmt: skip
        for part in parts:
            tensors[f"{block}.processor.{part}.down.weight"] = torch.randn(RANK, 8)
            tensors[f"{block}.processor.{part}.up.weight"] = torch.randn(24 if "qkv" in part else 8, RANK)
    theirs = of_loras._convert_xlabs_flux_lora_to_diffusers(dict(tensors))
    names = {key.removesuffix(".lora_A.weight") for key in theirs if "lora_A" in key}
    read = read_terms(tensors, {}, sorted(names))
    assert set(read) == names and len(names) == 12
    for name, (down, up, scale) in read.items():
        assert scale == 1 and torch.equal(down, theirs[f"{name}.lora_A.weight"])
        assert torch.equal(up, theirs[f"{name}.lora_B.weight"])


@pytest.mark.parametrize("dotted", [True, False])
def test_names_of_the_original_unet(tiny: Any, dotted: bool) -> None:
    """Of every layer that has one: what ComfyUI writes when it trains or extracts."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    layers = {f"unet.{n}": m.weight.shape for n, m in tiny.unet.named_modules() if isinstance(m, kinds)}
    written = {
        "input_blocks.0.0": "conv_in",
        "input_blocks.1.0.in_layers.2": "down_blocks.0.resnets.0.conv1",
        "input_blocks.1.0.emb_layers.1": "down_blocks.0.resnets.0.time_emb_proj",
        "input_blocks.2.0.op": "down_blocks.0.downsamplers.0.conv",
        "input_blocks.3.1.proj_in": "down_blocks.1.attentions.0.proj_in",
        "input_blocks.3.1.transformer_blocks.0.attn2.to_out.0": (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0"
        ),
        "middle_block.1.transformer_blocks.0.ff.net.2": "mid_block.attentions.0.transformer_blocks.0.ff.net.2",
        "output_blocks.0.1.transformer_blocks.0.attn1.to_q": "up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "out.2": "conv_out",
        "time_embed.0": "time_embedding.linear_1",
    }
    tensors = {}
    for theirs, ours in written.items():
        out, into, *kernel = layers[f"unet.{ours}"]
        key = f"diffusion_model.{theirs}" if dotted else f"lora_unet_{theirs.replace('.', '_')}"
        tensors[f"{key}.lora_down.weight"] = torch.randn(1, into, *kernel)
        tensors[f"{key}.lora_up.weight"] = torch.randn(out, 1, *[1] * len(kernel))
    assert set(read_terms(tensors, {}, layers)) == {f"unet.{ours}" for ours in written.values()}


ENCODERS = {
    "SD 1": (["unet", "text_encoder"], {"lora_te_": 1, "text_encoders.clip_l.transformer.": 1}),
    "SDXL": (
        ["unet", "text_encoder", "text_encoder_2"],
        {"lora_te1_": 1, "lora_te2_": 2, "text_encoders.clip_g.transformer.": 2, "text_encoder_2.": 2},
    ),
    "SDXL refiner": (["unet", "text_encoder"], {"text_encoders.clip_g.transformer.": 1}),
    "SD 3": (
        ["transformer", "text_encoder", "text_encoder_2", "text_encoder_3"],
        {"lora_te1_": 1, "lora_te2_": 2, "lora_te3_": 3, "text_encoders.t5xxl.transformer.": 3},
    ),
    # OneTrainer calls the second encoder te2, kohya te3.
    "FLUX": (
        ["transformer", "text_encoder", "text_encoder_2"],
        {"lora_te1_": 1, "lora_te2_": 2, "lora_te3_": 2, "text_encoders.t5xxl.transformer.": 2},
    ),
    "Wan": (["transformer", "text_encoder"], {"text_encoders.umt5xxl.transformer.": 1}),
}


@pytest.mark.parametrize("model", ENCODERS)
def test_text_encoders(model: str) -> None:
    components, prefixes = ENCODERS[model]
    rest = "encoder.layers.0.mlp.fc1"
    layers = [f"{component}.{rest}" for component in components]
    for prefix, number in prefixes.items():
        for inner in (f"text_model.{rest}", rest):
            name = prefix + (inner.replace(".", "_") if prefix.startswith("lora_") else inner)
            pair = {f"{name}.lora_down.weight": torch.ones(1, 4), f"{name}.lora_up.weight": torch.ones(4, 1)}
            assert list(read_terms(pair, {}, layers)) == [f"text_encoder{'' if number == 1 else f'_{number}'}.{rest}"]


@pytest.mark.parametrize("key", ["lycoris_", "lora_transformer_", "transformer.", "base_model.model.transformer.", ""])
def test_spellings_of_diffusers_names(key: str) -> None:
    name = "transformer_blocks.0.attn.to_q"
    written = key + (name.replace(".", "_") if key.endswith("_") else name)
    pair = {f"{written}.lora_A.weight": torch.ones(1, 4), f"{written}.lora_B.weight": torch.ones(4, 1)}
    assert list(read_terms(pair, {}, [f"transformer.{name}", "transformer.proj_out"])) == [f"transformer.{name}"]


def test_one_by_one_convolutions_as_matrices_and_the_other_way_round(tiny: Any) -> None:
    down, up = torch.randn(2, 8), torch.randn(8, 2)
    pointwise = {"unet.proj_in": (8, 8, 1, 1)}
    linear = {"unet.proj_in": (8, 8)}
    flat = {"lora_unet_proj_in.lora_down.weight": down, "lora_unet_proj_in.lora_up.weight": up}
    square = {key: tensor[..., None, None] for key, tensor in flat.items()}
    for tensors in (flat, square):
        for layers in (pointwise, linear):
            (found,) = read_terms(tensors, {}, layers).values()
            kernel = layers["unet.proj_in"][2:]
            assert found.down.shape == (2, 8, *kernel) and found.up.shape == (8, 2, *kernel)
            assert torch.equal(found.down.flatten(1), down) and isinstance(found, Factors)


def test_a_fused_layer_for_a_narrower_model_is_refused() -> None:
    layers = [f"transformer.single_transformer_blocks.0.{one}" for one in
              ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]  # fmt: skip
    key = "lora_unet_single_blocks_0_linear1"
    tensors = {f"{key}.lora_down.weight": torch.ones(1, 8), f"{key}.lora_up.weight": torch.ones(24, 1)}
    with pytest.raises(BaseMismatch, match="24 outputs cannot be its parts"):
        read_terms(tensors, {}, layers)


def test_what_extractors_write_of_layers_that_did_not_change() -> None:
    key = "text_encoders.clip_l.transformer.text_model.embeddings.position_embedding"
    pair = {"transformer.x.lora_A.weight": torch.ones(1, 4), "transformer.x.lora_B.weight": torch.ones(4, 1)}
    beside = {f"{key}.lora_down.weight": torch.ones(1, 4), f"{key}.lora_up.weight": torch.zeros(4, 1)}
    beside |= {"diffusion_model.norm.diff": torch.zeros(4), "diffusion_model.x.diff_b": torch.zeros(4)}
    assert list(read_terms(pair | beside, {}, ["transformer.x", "text_encoder.y"])) == ["transformer.x"]
    with pytest.raises(BaseMismatch, match="position_embedding"):
        changed = {f"{key}.lora_up.weight": torch.ones(4, 1)}
        read_terms(pair | beside | changed, {}, ["transformer.x", "text_encoder.y"])
