"""Published formats: read into terms, written for others, stored without changing a bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from conceptguard.errors import ArtifactError, BaseMismatch
from conceptguard.formats import read_artifact, read_terms, to_diffusers, to_kohya, to_uce
from conceptguard.formats.keys import detect_format
from conceptguard.formats.model import model_layers
from conceptguard.registry.exporter import export_artifact
from conceptguard.registry.fingerprint import fingerprint
from conceptguard.registry.importer import import_artifact, open_published
from conceptguard.runtime.lowrank import Factors

BLOCK = "unet.down_blocks.1.attentions.0."
LAYERS: dict[str, tuple[int, ...]] = {
    f"{BLOCK}proj_in": (8, 8, 1, 1),
    f"{BLOCK}transformer_blocks.0.attn1.to_q": (8, 8),
    f"{BLOCK}transformer_blocks.0.attn1.to_out.0": (8, 8),
    f"{BLOCK}transformer_blocks.0.attn2.to_k": (8, 6),
    f"{BLOCK}transformer_blocks.0.attn2.to_v": (8, 6),
    "unet.down_blocks.1.resnets.0.conv1": (8, 8, 3, 3),
    "unet.conv_in": (8, 4, 3, 3),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (6, 6),
    "text_encoder.text_model.encoder.layers.0.mlp.fc1": (12, 6),
}
ATTENTION = [name for name in LAYERS if ".attn" in name]


def random_terms(names: Any = LAYERS, rank: int = 2, scale: float = 0.75) -> dict[str, Factors]:
    chance = torch.Generator().manual_seed(0)
    terms = {}
    for name in names:
        out, into, *kernel = LAYERS[name]
        down = torch.randn(rank, into, *kernel, generator=chance)
        up = torch.randn(out, rank, *[1] * len(kernel), generator=chance)
        terms[name] = Factors(down, up, scale)
    return terms


def product(factors: Factors) -> Tensor:
    return factors.scale * (factors.up.flatten(1).double() @ factors.down.flatten(1).double())


def assert_same_edit(one: Mapping[str, Factors], other: Mapping[str, Factors], tolerance: float = 1e-6) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.allclose(product(one[name]), product(other[name]), atol=tolerance), name


def test_kohya_there_and_back() -> None:
    terms = random_terms()
    tensors, metadata = to_kohya(terms, {"prompts": "cigarette"})
    assert detect_format(tensors) == "kohya" and metadata["prompts"] == "cigarette"
    assert "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight" in tensors
    assert_same_edit(read_terms(tensors, metadata, LAYERS), terms)
    assert_same_edit(read_terms(tensors, metadata, [n.replace(".text_model", "") for n in LAYERS] + list(LAYERS)[:7]),
                     {n.replace(".text_model", ""): f for n, f in terms.items()})  # fmt: skip


def test_diffusers_there_and_back() -> None:
    terms = random_terms()
    tensors, metadata = to_diffusers(terms)
    assert detect_format(tensors) == "diffusers"
    assert_same_edit(read_terms(tensors, metadata, LAYERS), terms)
    assert_same_edit(read_terms(tensors, metadata, None), terms)


OLD = {
    "{b}transformer_blocks.0.attn1.processor.to_q_lora.{p}.weight": f"{BLOCK}transformer_blocks.0.attn1.to_q",
    "{b}transformer_blocks.0.attn1.processor.to_out_lora.{p}.weight": f"{BLOCK}transformer_blocks.0.attn1.to_out.0",
    "{b}transformer_blocks.0.attn2.to_k.lora.{p}.weight": f"{BLOCK}transformer_blocks.0.attn2.to_k",
    "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.{p}.weight": list(LAYERS)[7],
    "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.{p}.weight": list(LAYERS)[8],
}


@pytest.mark.parametrize("prefix", [BLOCK, BLOCK.removeprefix("unet.")])
def test_old_diffusers_spellings(prefix: str) -> None:
    terms = random_terms(OLD.values(), scale=1.0)
    tensors = {}
    for key, name in OLD.items():
        tensors[key.format(b=prefix, p="down")] = terms[name].down
        tensors[key.format(b=prefix, p="up")] = terms[name].up
    assert_same_edit(read_terms(tensors, {}, LAYERS), terms)


@pytest.mark.parametrize("adapter", ["", ".default"])
def test_peft_with_its_configuration(adapter: str) -> None:
    names = [*ATTENTION, f"{BLOCK}proj_in"]
    terms = random_terms(names, scale=1.0)
    tensors = {}
    for name, (down, up, _) in terms.items():
        tensors[f"base_model.model.{name.removeprefix('unet.')}.lora_A{adapter}.weight"] = down
        tensors[f"base_model.model.{name.removeprefix('unet.')}.lora_B{adapter}.weight"] = up
    config = {"r": 2, "lora_alpha": 6, "alpha_pattern": {"attn1.to_q": 8}}
    read = read_terms(tensors, {}, LAYERS, config=config)
    assert {round(f.scale, 6) for f in read.values()} == {3.0, 4.0}
    assert read[ATTENTION[0]].scale == 4.0
    rooted = read_terms(tensors, {}, LAYERS, config={**config, "use_rslora": True, "alpha_pattern": {}})
    assert rooted[ATTENTION[0]].scale == pytest.approx(6 / 2**0.5)
    packed = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 5, "unet.r": 2})}
    assert read_terms(tensors, packed, LAYERS)[ATTENTION[0]].scale == 2.5
    assert read_terms(tensors, {}, LAYERS)[ATTENTION[0]].scale == 1.0
    with pytest.raises(ArtifactError, match="DoRA"):
        read_terms(tensors, {}, LAYERS, config={"use_dora": True})


def test_ldm_names_of_sdxl_files() -> None:
    layers = {
        "unet.down_blocks.0.resnets.0.conv1": (8, 8, 3, 3),
        "unet.down_blocks.0.resnets.1.conv1": (8, 8, 3, 3),
        "unet.down_blocks.0.downsamplers.0.conv": (8, 8, 3, 3),
        "unet.down_blocks.1.attentions.1.transformer_blocks.1.attn2.to_k": (8, 6),
        "unet.mid_block.attentions.0.proj_in": (8, 8),
        "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_out.0": (8, 8),
        "unet.up_blocks.0.upsamplers.0.conv": (8, 8, 3, 3),
        "unet.add_embedding.linear_1": (8, 8),
    }
    theirs = {
        "input_blocks_1_0_in_layers_2": 0,
        "input_blocks_2_0_in_layers_2": 1,
        "input_blocks_3_0_op": 2,
        "input_blocks_5_1_transformer_blocks_1_attn2_to_k": 3,
        "middle_block_1_proj_in": 4,
        "output_blocks_5_1_transformer_blocks_0_attn1_to_out_0": 5,
        "output_blocks_2_2_conv": 6,
        "label_emb_0_0": 7,
    }
    for written, number in theirs.items():
        name, shape = list(layers.items())[number]
        down, up = torch.ones(1, *shape[1:]), torch.ones(shape[0], 1, *[1] * (len(shape) - 2))
        key = f"lora_unet_{written}"
        read = read_terms({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}, {}, layers)
        assert list(read) == [name]


def test_shared_input_form() -> None:
    down = torch.randn(3, 6)
    ups = {name: torch.randn(8, 3) for name in LAYERS if ".attn2." in name}
    read = read_terms({"shared.down": down, **{f"{n}.up": up for n, up in ups.items()}}, {}, LAYERS)
    assert read.keys() == ups.keys() and all(read[n].down is down and read[n].scale == 1 for n in ups)
    assert_same_edit(read_terms(*to_kohya(read), LAYERS), read)


@pytest.mark.parametrize("kept", [torch.float32, torch.float16])
def test_uce_weights_there_and_back(kept: torch.dtype) -> None:
    big = {name: (64, 48) for name in LAYERS if ".attn2." in name}
    terms = {n: Factors(torch.randn(3, 48), torch.randn(64, 3), 0.5) for n in big}
    base = {n: torch.randn(shape) for n, shape in big.items()}
    tensors, _ = to_uce(terms, base.__getitem__)
    assert set(tensors) == {f"{n.removeprefix('unet.')}.weight" for n in big} and detect_format(tensors) == "uce"
    read = read_terms(tensors, {}, big, base_weights=lambda n: base[n].to(kept))
    assert {f.down.shape[0] for f in read.values()} == {3}
    assert_same_edit(read, terms, 1e-4 if kept == torch.float32 else 0.1)
    with pytest.raises(ArtifactError, match="give the base model"):
        read_terms(tensors, {}, big)
    with pytest.raises(ArtifactError, match="rank 48 of 48"):
        read_terms({k: t + torch.randn(64, 48) for k, t in tensors.items()}, {}, big, base_weights=base.__getitem__)
    with pytest.raises(ArtifactError, match="changes nothing"):
        read_terms({f"{n}.weight": w for n, w in base.items()}, {}, big, base_weights=base.__getitem__)
    with pytest.raises(BaseMismatch, match="use the base"):
        read_terms(tensors, {}, big, base_weights=lambda n: torch.zeros(64, 12))


def changed(tensors: dict[str, Tensor], key: str, new: Tensor | None) -> dict[str, Tensor]:
    rest = {k: t for k, t in tensors.items() if not k.endswith(key)}
    return rest if new is None else {**rest, **{k: new for k in tensors if k.endswith(key)}}


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (lambda t: {k.replace("attn2", "attn3"): v for k, v in t.items()}, BaseMismatch, "not in this base.*nearest"),
        (lambda t: changed(t, "lora_up.weight", None), ArtifactError, "no `up`"),
        (lambda t: changed(t, "lora_down.weight", torch.ones(3, 6)), ArtifactError, "do not fit"),
        (lambda t: changed(t, "lora_down.weight", torch.ones(0, 6)), ArtifactError, "do not fit"),
        (lambda t: changed(t, "lora_down.weight", torch.ones(2, 6, dtype=torch.int64)), ArtifactError, "floating"),
        (lambda t: changed(t, "alpha", torch.tensor(float("inf"))), ArtifactError, "alpha"),
        (lambda t: changed(t, "alpha", torch.ones(2)), ArtifactError, "one number"),
        (lambda t: {**t, "stray": torch.ones(1)}, ArtifactError, "no part of a LoRA"),
        (lambda t: {**t, "lora_unet_conv_in.hada_w1_a": torch.ones(1)}, ArtifactError, "LoHa"),
        (lambda t: {**t, "lora_unet_conv_in.lora_mid.weight": torch.ones(1)}, ArtifactError, "Tucker"),
        (lambda t: {**t, "lora_unet_conv_in.dora_scale": torch.ones(1)}, ArtifactError, "DoRA"),
        (lambda t: {k: 0 * v for k, v in t.items()}, ArtifactError, "changes nothing"),
        (lambda t: changed(t, "lora_up.weight", torch.zeros(8, 2)), ArtifactError, "changes nothing"),
        (lambda t: {}, ArtifactError, "not a format"),
    ],
)
def test_files_that_are_not_terms(spoil: Any, error: type[Exception], says: str) -> None:
    tensors, _ = to_kohya(random_terms([ATTENTION[2]]))
    with pytest.raises(error, match=says) as caught:
        read_terms(spoil(tensors), {}, LAYERS)
    assert "\n" not in str(caught.value)


def test_two_adapters_for_one_layer_are_refused() -> None:
    tensors, _ = to_diffusers(random_terms([ATTENTION[2]]))
    twice = {
        **tensors,
        **{k.replace(".lora_A.", ".lora_A.b.").replace(".lora_B.", ".lora_B.b."): t for k, t in tensors.items()},
    }
    with pytest.raises(ArtifactError, match="two tensors"):
        read_terms(twice, {}, LAYERS)


def test_a_name_that_fits_two_components_is_refused() -> None:
    layers = ["text_encoder.encoder.layers.0.mlp.fc1", "text_encoder_2.encoder.layers.0.mlp.fc1"]
    tensors = {
        "encoder.layers.0.mlp.fc1.lora_A.weight": torch.ones(1, 4),
        "encoder.layers.0.mlp.fc1.lora_B.weight": torch.ones(4, 1),
    }
    with pytest.raises(ArtifactError, match="fits several"):
        read_terms(tensors, {}, layers)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A diffusers folder as far as its safetensors go."""
    for component in ("unet", "text_encoder"):
        weights = {
            f"{n.split('.', 1)[1]}.weight": torch.zeros(s) for n, s in LAYERS.items() if n.startswith(f"{component}.")
        }
        weights["norm.weight"] = torch.zeros(3)
        (tmp_path / "model" / component).mkdir(parents=True)
        safetensors.torch.save_file(weights, tmp_path / "model" / component / "weights.safetensors")
    return tmp_path / "model"


def test_model_layers_from_headers(model: Path) -> None:
    assert model_layers(model) == LAYERS


SAMPLES = {
    "spm": lambda: to_kohya(
        random_terms(ATTENTION, rank=1), {"prompts": "cigarette, smoke", "rank": "1", "alpha": "1.0"}
    ),
    "lora": lambda: to_diffusers(random_terms()),
    "uce": lambda: to_uce(random_terms([n for n in LAYERS if "attn2" in n], rank=1), lambda n: torch.zeros(LAYERS[n])),
}


@pytest.mark.parametrize(("kind", "form"), [("spm", "kohya"), ("lora", "diffusers"), ("uce", "uce")])
def test_import_then_export_is_bit_identical(tmp_path: Path, model: Path, kind: str, form: str) -> None:
    tensors, metadata = SAMPLES[kind]()
    metadata = {**metadata, "theirs": "kept"}
    safetensors.torch.save_file(tensors, tmp_path / "x_last.safetensors", metadata=metadata)
    artifact = import_artifact(
        tmp_path / "x_last.safetensors", kind, tmp_path / "r", base="tiny", concept="cigarette", model=model
    )
    assert artifact.ref == f"tiny/{kind}/cigarette" and artifact.metadata() == metadata
    assert artifact.manifest.base.fingerprint == fingerprint(LAYERS)
    assert artifact.manifest.concept.prompts == (["cigarette", "smoke"] if kind == "spm" else ["cigarette"])
    assert export_artifact(artifact, form, tmp_path / "out.safetensors", model=model) == "as stored"
    back = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert back.keys() == tensors.keys() and all(torch.equal(back[k], tensors[k]) for k in back)
    with safe_open(tmp_path / "out.safetensors", framework="pt") as handle:
        assert handle.metadata() == metadata


def test_export_converts(tmp_path: Path, model: Path) -> None:
    terms = random_terms(ATTENTION)
    tensors, metadata = to_kohya(terms, {"prompts": "x"})
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata=metadata)
    artifact = import_artifact(tmp_path / "x.safetensors", "lora", tmp_path / "r", base="tiny")
    assert export_artifact(artifact, "diffusers", tmp_path / "d.safetensors", model=model) == "converted"
    assert_same_edit(read_artifact(open_published(tmp_path / "d.safetensors"), LAYERS), terms)
    export_artifact(artifact, "uce", tmp_path / "u.safetensors", model=model)
    new = safetensors.torch.load_file(tmp_path / "u.safetensors")
    name = ATTENTION[0]
    assert torch.allclose(new[f"{name.removeprefix('unet.')}.weight"].double(), product(terms[name]), atol=1e-6)
    with pytest.raises(ArtifactError, match="base model at hand"):
        export_artifact(artifact, "diffusers", tmp_path / "e.safetensors")
    with pytest.raises(ArtifactError, match="no such format"):
        export_artifact(artifact, "gguf", tmp_path / "e.safetensors")
    assert not (tmp_path / "e.safetensors").exists()


def test_peft_folder_keeps_its_configuration(tmp_path: Path, model: Path) -> None:
    terms = random_terms(ATTENTION, scale=1.0)
    tensors = {f"base_model.model.{k.removeprefix('unet.')}": t for k, t in to_diffusers(terms)[0].items()}
    (tmp_path / "peft").mkdir()
    safetensors.torch.save_file(tensors, tmp_path / "peft" / "adapter_model.safetensors")
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 5}))
    artifact = import_artifact(tmp_path / "peft", "lora", tmp_path / "r", base="tiny", concept="x", model=model)
    assert {f.scale for f in read_artifact(artifact, LAYERS).values()} == {2.5}


def test_text_encoder_folder(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    weights = {"text_model.embeddings.token_embedding.weight": torch.ones(9, 4)}
    weights["text_model.encoder.layers.0.self_attn.q_proj.weight"] = torch.ones(4, 4)
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text("{}")
    artifact = import_artifact(folder, "text_encoder", tmp_path / "r", base="tiny", concept="nudity")
    assert artifact.weights() == ["text_encoder/model.safetensors"]
    assert (artifact.folder / "text_encoder" / "config.json").read_text() == "{}"
    assert artifact.tensors().keys() == weights.keys() and artifact.verify()
    with pytest.raises(ArtifactError, match="whole text encoder"):
        read_artifact(artifact, LAYERS)
    with pytest.raises(ArtifactError, match="as it is"):
        export_artifact(artifact, "kohya", tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"kind": "uce"}, ArtifactError, "use `--as lora`"),
        ({"kind": "other"}, ArtifactError, "--as"),
        ({"concept": ""}, ArtifactError, "says nothing of its concept"),
        ({"base": "Not A Name"}, ArtifactError, "cannot be a name"),
        ({"path": "x.ckpt"}, ArtifactError, "a pickle, which"),
        ({"path": "none.safetensors"}, ArtifactError, "no such file"),
    ],
)
def test_wrong_imports(tmp_path: Path, change: dict[str, str], error: type[Exception], says: str) -> None:
    safetensors.torch.save_file(to_diffusers(random_terms())[0], tmp_path / "x.safetensors")
    (tmp_path / "x.ckpt").write_bytes(b"\x80\x02}q\x00.")
    given = {"path": "x.safetensors", "kind": "lora", "base": "tiny", "concept": "c", **change}
    path = tmp_path / given.pop("path")
    with pytest.raises(error, match=says):
        import_artifact(path, given.pop("kind"), tmp_path / "r", **given)
    assert not (tmp_path / "r").exists()


def test_import_for_another_base_is_refused(tmp_path: Path, model: Path) -> None:
    terms = random_terms([ATTENTION[2]])
    wide = {n: Factors(torch.ones(2, 10), f.up, 1.0) for n, f in terms.items()}
    strange = {n.replace("down_blocks.1", "down_blocks.7"): f for n, f in terms.items()}
    for bad, says in ((wide, "for another base"), (strange, "not in this base")):
        safetensors.torch.save_file(to_kohya(bad)[0], tmp_path / "x.safetensors")
        with pytest.raises(BaseMismatch, match=says):
            import_artifact(tmp_path / "x.safetensors", "lora", tmp_path / "r", base="tiny", concept="c", model=model)


def test_diffusers_itself_loads_what_is_written(tmp_path: Path) -> None:
    """Both exports, through `load_lora_weights`, give the edit that the artifact stands for."""
    pytest.importorskip("peft")
    from diffusers import UNet2DConditionModel
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    from conceptguard.runtime.lowrank import LayerIndex

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32,), layers_per_block=1, sample_size=8, cross_attention_dim=8, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
    )  # fmt: skip
    shapes = {n: s for n, s in LayerIndex({"unet": unet}).shapes().items() if "attentions" in n}
    terms = {
        n: Factors(torch.randn(2, *s[1:]), torch.randn(s[0], 2, *[1] * (len(s) - 2)), 0.75) for n, s in shapes.items()
    }
    for number, write in enumerate((to_kohya, to_diffusers)):
        tensors, metadata = write(terms)
        safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata=metadata)
        state, alphas = Loader.lora_state_dict(str(tmp_path / "x.safetensors"), unet_config=unet.config)
        Loader.load_lora_into_unet(state, network_alphas=alphas, unet=unet, adapter_name=f"a{number}")
        for name, factors in terms.items():
            layer = unet.get_submodule(name.removeprefix("unet."))
            delta = layer.get_delta_weight(f"a{number}").flatten(1).double()
            assert torch.allclose(delta, product(factors), atol=1e-5), name
