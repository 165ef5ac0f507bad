"""LoRA guards: fixed open they are the host's own LoRA; gated they act on the rows that ask for the concept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from random_artifacts import membrane, random_terms, write_terms
from safetensors.torch import save_file
from tiny import generate, tiny_sd

import conceptguard
from conceptguard.formats import to_kohya

OPENS, UNRELATED = "a cigarette", "a red apple"
UNET = LoraConfig(
    r=4, lora_alpha=6, target_modules=["to_q", "to_k", "to_v", "to_out.0", "conv1"], init_lora_weights=False
)
TEXT = LoraConfig(r=2, lora_alpha=1, target_modules=["q_proj", "v_proj", "fc1"], init_lora_weights=False)


def always(path: Path) -> dict[str, Any]:
    return {"guards": [{"method": "lora", "artifact": str(path), "gate": "always"}]}


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    """Equal to 1e-5 of the largest value."""
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * float(want.abs().max()))


def saved_by_diffusers(pipe: Any, folder: Path) -> Path:
    """A LoRA of UNet and text encoder with random factors, written by diffusers itself."""
    torch.manual_seed(7)
    pipe.unet.add_adapter(UNET)
    pipe.text_encoder.add_adapter(TEXT)
    type(pipe).save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(pipe.unet, adapter_name="default"),
        text_encoder_lora_layers=get_peft_model_state_dict(pipe.text_encoder, adapter_name="default"),
        unet_lora_adapter_metadata=UNET.to_dict(),
        text_encoder_lora_adapter_metadata=TEXT.to_dict(),
    )
    return folder / "pytorch_lora_weights.safetensors"


def saved_as_kohya(pipe: Any, folder: Path) -> Path:
    """The same in kohya's keys, alpha unequal to the rank. diffusers loses kohya's attention layers of the encoder."""
    terms = random_terms(pipe, rank=4, names=("attn1.", "attn2.", "ff.net"))
    terms |= random_terms(pipe, rank=2, component="text_encoder", names=("fc1", "fc2"), seed=1)
    tensors, metadata = to_kohya(terms)
    save_file(tensors, folder / "kohya.safetensors", metadata)
    return folder / "kohya.safetensors"


@pytest.mark.parametrize("save", [saved_by_diffusers, saved_as_kohya])
def test_fixed_open_equals_load_lora_weights(save: Any, tokenizer: Any, tmp_path: Path) -> None:
    path = save(tiny_sd(tokenizer), tmp_path)
    theirs, ours = tiny_sd(tokenizer), tiny_sd(tokenizer)
    bare = generate(ours, [UNRELATED, OPENS])
    theirs.load_lora_weights(tmp_path, weight_name=path.name)
    want = generate(theirs, [UNRELATED, OPENS])
    assert (want - bare).abs().max() > 1e-2
    with conceptguard.attach(ours, always(path)) as guard:
        assert guard.banks.prefixes() == {"unet", "text_encoder"}
        close(generate(ours, [UNRELATED, OPENS]), want)
    assert torch.equal(generate(ours, [UNRELATED, OPENS]), bare)


def test_fixed_open_equals_peft(tiny: Any, tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(7)
    get_peft_model(tiny_sd(tokenizer).unet, UNET).save_pretrained(tmp_path)
    theirs = PeftModel.from_pretrained(tiny_sd(tokenizer).unet, tmp_path)
    embeds = tiny.encode_prompt(OPENS, "cpu", 1, False)[0]
    with torch.no_grad(), conceptguard.attach(tiny, always(tmp_path / "adapter_model.safetensors")):
        args = torch.randn(1, 4, 8, 8), torch.tensor(500), embeds
        close(tiny.unet(*args).sample, theirs(*args).sample)


def test_gated_by_the_prompt_row_by_row(tiny: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Without guidance there is one row per prompt: closed rows are the bare ones, open rows those of the LoRA."""
    path = saved_as_kohya(tiny, tmp_path)
    terms = random_terms(tiny, rank=4, names=("attn1.", "attn2.", "ff.net"))
    terms |= random_terms(tiny, rank=2, component="text_encoder", names=("fc1", "fc2"), seed=1)
    folder = write_terms(tmp_path / "gated", tiny, terms, method="lora")
    theirs = tiny_sd(tokenizer)
    theirs.load_lora_weights(tmp_path, weight_name=path.name)
    prompts = [UNRELATED, OPENS]
    bare, want = generate(tiny, prompts, guidance_scale=1.0), generate(theirs, prompts, guidance_scale=1.0)
    with conceptguard.attach(tiny, {"guards": [{"method": "lora", "artifact": str(folder)}]}) as guard:
        got = generate(tiny, prompts, guidance_scale=1.0)
        assert guard.receipt.acts[0].gates == [0, 1]
    assert torch.equal(got[0], bare[0])
    torch.testing.assert_close(got[1], want[1], rtol=1e-4, atol=1e-4)


def test_half_open_is_half_the_lora(tiny: Any, tokenizer: Any, tmp_path: Path) -> None:
    path = saved_by_diffusers(tiny_sd(tokenizer), tmp_path)
    theirs = tiny_sd(tokenizer)
    theirs.load_lora_weights(tmp_path, weight_name=path.name, adapter_name="lora")
    theirs.set_adapters("lora", 0.5)
    policy = {"guards": [{"method": "lora", "artifact": str(path), "gate": 0.5}]}
    with conceptguard.attach(tiny, policy):
        close(generate(tiny, OPENS), generate(theirs, OPENS))


def test_beside_a_membrane(tiny: Any, tmp_path: Path) -> None:
    """Two guards of different methods and ranks on the same layers: each opens for its own concept."""
    terms = random_terms(tiny, rank=4, seed=5)
    lora = {
        "method": "lora",
        "artifact": str(write_terms(tmp_path / "l", tiny, terms, method="lora", concept="pistol")),
    }
    guards = [membrane(tmp_path, tiny), lora]
    prompts = [UNRELATED, OPENS, "a pistol", "a pistol and a cigarette"]
    bare = generate(tiny, prompts)
    with conceptguard.attach(tiny, {"guards": guards}) as guard:
        got = generate(tiny, prompts)
        assert [act.gates[4:] for act in guard.receipt.acts] == [[0, 1, 0, 1], [0, 0, 1, 1]]
    assert torch.equal(got[0], bare[0])
    for i, alone in ((1, guards[0]), (2, guards[1])):
        with conceptguard.attach(tiny, {"guards": [alone]}):
            torch.testing.assert_close(got[i], generate(tiny, prompts)[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("missing", ["rank", "common"])
def test_a_policy_says_what_a_missing_alpha_means(missing: str, tiny: Any, tmp_path: Path) -> None:
    tensors, metadata = to_kohya(random_terms(tiny, rank=4, names=("attn2.to_k", "attn2.to_v")))
    kept = {key: t for key, t in tensors.items() if "to_v" not in key or not key.endswith("alpha")}
    save_file(kept, tmp_path / "x.safetensors", metadata)
    policy = always(tmp_path / "x.safetensors")
    policy["guards"][0]["missing_alpha"] = missing
    with conceptguard.attach(tiny, policy) as guard:
        (terms,) = guard.banks.terms
        assert {one.scale for name, one in terms.factors.items() if "to_k" in name} == {0.5}
        assert {one.scale for name, one in terms.factors.items() if "to_v" in name} == {
            1.0 if missing == "rank" else 0.5
        }
