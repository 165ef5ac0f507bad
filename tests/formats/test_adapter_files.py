"""peft's own adapters, saved by peft and read here: the same change of every layer, or a refusal that says why."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, PeftModel, get_peft_model
from random_artifacts import layers_of
from safetensors.torch import load_file, save_file
from tiny import tiny_sd
from torch import Tensor

import conceptguard
from conceptguard.errors import ArtifactError, GuardError
from conceptguard.formats import read_artifact, read_terms, read_weights_of
from conceptguard.formats.patterns import matches
from conceptguard.registry.importer import import_artifact, open_published
from conceptguard.runtime.lowrank import Factors

LAYERS = ["to_q", "to_k", "ff.net.2", "proj_in", "conv1"]


def product(factors: Factors) -> Tensor:
    """The change that a term makes, as a matrix."""
    return factors.scale * (factors.up.flatten(1).double() @ factors.down.flatten(1).double())


def merged(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What merging the adapter changes, by layer: peft's own arithmetic."""
    whole = model.merge_and_unload()
    changes = {}
    for name, old in weights.items():
        new = whole.get_submodule(name.removeprefix("unet.")).weight.detach()
        if not torch.equal(new, old):
            changes[name] = (new - old).flatten(1).double()
    return changes


def weights_of(pipe: Any) -> dict[str, Tensor]:
    return {n: m.weight.detach().clone() for n, m in layers_of(pipe).items() if n.startswith("unet.")}


PEFT = {
    "rank and alpha": LoraConfig(r=4, lora_alpha=6, target_modules=LAYERS),
    "rslora": LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=LAYERS),
    "rank_pattern": LoraConfig(r=4, lora_alpha=6, rank_pattern={r"down.*to_[qk]": 2}, target_modules=LAYERS),
    "dora": LoraConfig(r=2, lora_alpha=6, use_dora=True, target_modules=LAYERS),
    "loha": LoHaConfig(r=2, alpha=3, target_modules=LAYERS),
    "loha, more ranks than the layer": LoHaConfig(r=8, alpha=3, target_modules=LAYERS),
    "loha of convolutions": LoHaConfig(r=2, alpha=3, use_effective_conv2d=True, target_modules=LAYERS),
    "lokr": LoKrConfig(r=2, alpha=3, target_modules=LAYERS),
    "lokr, both whole": LoKrConfig(r=64, alpha=3, target_modules=LAYERS),
    "lokr, both in factors": LoKrConfig(r=2, alpha=3, decompose_both=True, target_modules=LAYERS),
    "lokr, low": LoKrConfig(r=1, alpha=3, decompose_factor=2, target_modules=["to_q", "to_k"]),
    "lokr of convolutions": LoKrConfig(r=1, alpha=3, use_effective_conv2d=True, target_modules=LAYERS),
    "lokr, ranks by pattern": LoKrConfig(r=64, alpha=3, rank_pattern={"to_.": 48}, target_modules=LAYERS),
}
for _pattern in ("attn2.to_k", r".*attn2\.to_k", r"down_blocks.*attn2.to_k", r"attn[12].to_k", r"(attn1|attn2).to_k",
                 "to_k$", r"^down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", r"t+o_k", "o_k"):  # fmt: skip
    PEFT[f"alpha_pattern {_pattern}"] = LoraConfig(
        r=4, lora_alpha=4, alpha_pattern={_pattern: 32, "to_k": 16}, target_modules=["to_q", "to_k"]
    )


@pytest.mark.parametrize("case", PEFT)
def test_the_change_is_the_one_that_peft_merges(tokenizer: Any, tmp_path: Path, case: str) -> None:
    config, pipe = PEFT[case], tiny_sd(tokenizer)
    weights = weights_of(pipe)
    torch.manual_seed(1)
    model = get_peft_model(pipe.unet, config)
    for name, parameter in model.named_parameters():
        if any(mark in name for mark in ("lora_A", "lora_B", "lokr_", "hada_")):
            torch.nn.init.normal_(parameter, std=0.1)
        elif "magnitude" in name:
            parameter.data *= 1 + 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    # Read back by peft: it sorts its patterns when it saves them, and takes the first that fits.
    want = merged(PeftModel.from_pretrained(tiny_sd(tokenizer).unet, tmp_path), weights)
    bare = layers_of(tiny_sd(tokenizer))
    read = read_artifact(open_published(tmp_path), bare, base_weights=read_weights_of(bare))
    assert set(read) == set(want) and len(want) > 5
    for name, change in want.items():
        torch.testing.assert_close(product(read[name]), change, rtol=1e-4, atol=1e-5, msg=name)
        assert len(read[name].down) <= min(change.shape)


def test_dora_acts_as_the_host_acts_with_it(tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = get_peft_model(tiny_sd(tokenizer).unet, LoraConfig(r=2, use_dora=True, target_modules=LAYERS))
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "magnitude" in name:
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    theirs, pipe = PeftModel.from_pretrained(tiny_sd(tokenizer).unet, tmp_path), tiny_sd(tokenizer)
    args = torch.randn(1, 4, 8, 8), torch.tensor(500), torch.randn(1, 77, 32)
    policy = {"guards": [{"method": "lora", "artifact": str(tmp_path), "gate": "always"}]}
    with torch.no_grad():
        bare = pipe.unet(*args).sample
        with conceptguard.attach(pipe, policy):
            got = pipe.unet(*args).sample
        want = theirs(*args).sample
    assert (want - bare).abs().max() > 1e-2
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * float(want.abs().max()))


def saved(folder: Path, **changes: Any) -> Path:
    """A small adapter, and a configuration with these changes."""
    key = "base_model.model.mid_block.attentions.0.proj_in"
    pair = {f"{key}.lora_A.weight": torch.ones(2, 32, 1, 1), f"{key}.lora_B.weight": torch.ones(32, 2, 1, 1)}
    save_file(pair | changes.pop("tensors", {}), folder / "adapter_model.safetensors")
    config = {
        **LoraConfig(r=2, target_modules=["proj_in"]).to_dict(),
        "peft_type": "LORA",
        "target_modules": ["proj_in"],
    }
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    return folder


BIAS = {"base_model.model.mid_block.attentions.0.proj_in.lora_B.bias": torch.ones(32)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"init_lora_weights": "pissa"}, "'pissa', which changes the base's weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"init_lora_weights": "tomorrow"}, "tomorrow"),
        ({"bias": "lora_only"}, "biases"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"use_qalora": True}, "use_qalora"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"peft_type": "ADALORA"}, "ADALORA"),
        ({"use_dora": True}, "DoRA, but the file has no lengths"),
        ({"an_option_of_next_year": {"x": 1}}, "an_option_of_next_year"),
        ({"alpha_pattern": {r"(?=to_k)x": 2}}, "regular expression"),
        ({"alpha_pattern": {"(": 2}}, "regular expression"),
        ({"alpha_pattern": [1]}, "not a mapping"),
        ({"lora_alpha": float("nan")}, "not a finite number"),
        ({"tensors": BIAS}, "a trained bias"),
        ({"tensors": {"base_model.model.x.lora_embedding_A": torch.ones(1)}}, "LoRA of an embedding"),
    ],
)
def test_options_under_which_factors_are_not_simply_added(
    tokenizer: Any, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises((ArtifactError, GuardError), match=re.escape(says)) as caught:
        read_artifact(open_published(saved(tmp_path, **changes)), layers_of(tiny_sd(tokenizer)))
    assert "\n" not in str(caught.value)


def test_options_that_change_nothing(tokenizer: Any, tmp_path: Path) -> None:
    for options in (
        {},
        {"init_lora_weights": "gaussian"},
        {"lora_dropout": 0.5},
        {"tensors": {k: 0 * t for k, t in BIAS.items()}},
    ):
        (read,) = read_artifact(open_published(saved(tmp_path, **options)), layers_of(tiny_sd(tokenizer))).values()
        assert read.scale == 4.0


def test_a_rotation_of_peft_is_named(tokenizer: Any, tmp_path: Path) -> None:
    get_peft_model(tiny_sd(tokenizer).unet, OFTConfig(oft_block_size=8, target_modules=["to_q"])).save_pretrained(
        tmp_path
    )
    with pytest.raises(ArtifactError, match="OFT"):
        read_artifact(open_published(tmp_path), layers_of(tiny_sd(tokenizer)))


def test_dora_needs_weights_that_can_be_read(tokenizer: Any, tmp_path: Path) -> None:
    model = get_peft_model(tiny_sd(tokenizer).unet, LoraConfig(r=2, use_dora=True, target_modules=["to_q"]))
    model.save_pretrained(tmp_path)
    layers = layers_of(tiny_sd(tokenizer))
    with pytest.raises(ArtifactError, match="give the base model"):
        read_artifact(open_published(tmp_path), layers)
    for spoiled in (lambda w: w.to(torch.int8), lambda w: w.to("meta"), lambda w: w.to(torch.float8_e4m3fn)):
        base = read_weights_of(layers)
        with pytest.raises(ArtifactError, match="quantised or away"):
            read_artifact(open_published(tmp_path), layers, base_weights=lambda n, s=spoiled, b=base: s(b(n)))


def test_import_checks_the_terms_of_any_form(tokenizer: Any, tmp_path: Path) -> None:
    pipe = tiny_sd(tokenizer)
    pipe.save_pretrained(tmp_path / "model")
    get_peft_model(
        pipe.unet, LoraConfig(r=2, use_dora=True, target_modules=["to_q"], init_lora_weights=False)
    ).save_pretrained(tmp_path / "dora")
    made = import_artifact(
        tmp_path / "dora", "lora", tmp_path / "r", base="tiny", concept="x", model=tmp_path / "model"
    )
    assert made.ref == "tiny/lora/x" and load_file(made.folder / "x.safetensors")


def test_patterns_are_python_s_and_always_end() -> None:
    names = ["down_blocks.0.attn1.to_k", "attn2.to_q", "a.b.a", "aab", "x", "blocks.10.attn2.to_k", ""]
    for pattern in (
        "attn2.to_k",
        "(a|b)*",
        "a?b{1,2}",
        "[^.]+",
        r"blocks\.\d+.*k",
        "to_[qk]$",
        "^a",
        "a.b.a|x",
        "(?:a|x)",
    ):
        for name in names:
            assert matches(pattern, name) == bool(re.match(rf"(.*\.)?({pattern})$", name)), (pattern, name)
    started = time.perf_counter()
    assert not matches("((a*)*)*b", "a" * 200) and not matches("(a+)+b", "a" * 200)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("others", ["rank", "common"])
def test_one_alpha_of_two_layers(others: Any) -> None:
    """As kohya's scripts and ComfyUI take it, or as diffusers does: both are there to choose."""
    key = "transformer.transformer_blocks.{}.attn.to_k"
    tensors = {f"{key.format(0)}.alpha": torch.tensor(1.0)}
    for number in (0, 1):
        tensors[f"{key.format(number)}.lora_A.weight"] = torch.ones(4, 8)
        tensors[f"{key.format(number)}.lora_B.weight"] = torch.ones(8, 4)
    layers = [key.format(number) for number in (0, 1)]
    scales = [one.scale for one in read_terms(tensors, {}, layers, missing_alpha=others).values()]
    assert scales == ([0.25, 1.0] if others == "rank" else [0.25, 0.25])
