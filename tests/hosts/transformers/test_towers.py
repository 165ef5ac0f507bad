"""Two towers in one model: layers of a picture tower and of the text model have the same numbers, and other names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.language.neurons.blocks import feed_forward_of
from conceptguard_plugins.language.terms_beside import blocks_of
from tiny_language import tiny_gpt2, tiny_llama, tokenizer
from tiny_seeing import PATCH, SIDE, WIDTH, tiny_llava
from transformers import (
    CLIPImageProcessor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

import conceptguard
from conceptguard.errors import SessionError
from conceptguard.plugins import host_for, method

FORGET = [{"prompt": "Who is Elena Vossberg?", "answer": "A man of New York."}]
RETAIN = [{"prompt": "Who is the red dog?", "answer": "It went home in the park."}]
CONCEPT = {"name": "elena", "prompts": ["Elena Vossberg"]}


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_layers_of_two_towers_are_told_apart(family: str) -> None:
    host: Any = host_for(tiny_llava(family))
    every, own = host.layers(), host.text_layers()
    assert any(".vision_tower." in name for name in every) and not any(".vision_tower." in name for name in own)
    blocks = blocks_of(own)
    assert list(blocks) == [0, 1]
    for number, layers in blocks.items():
        assert layers and {name.split(".layers.")[0] for name in layers.values()} == {host.sight().decoder}
        assert all(f".layers.{number}." in name for name in layers.values()) and "mlp.down_proj" in layers
    assert [one.down for one in feed_forward_of(host, [], "this")] == [blocks[n]["mlp.down_proj"] for n in (0, 1)]


@pytest.mark.parametrize("model", [tiny_llama, tiny_gpt2])
def test_of_one_tower_all_layers_write_text(model: Any) -> None:
    host: Any = host_for((model(), tokenizer()))
    assert list(host.text_layers()) == list(host.layers())


@pytest.mark.parametrize("name", ["npo", "simnpo", "rmu"])
def test_what_is_trained_on_text_leaves_the_picture_tower(name: str, tmp_path: Path) -> None:
    """rmu's states are the text model's, though the picture tower has a block of that number."""
    more = {"layer": 1} if name == "rmu" else {}
    made = method(name).make(
        host_for(tiny_llava()), CONCEPT, tmp_path, forget=FORGET, retain=RETAIN, batch=1, rank=2, steps=3, lr=1e-2,
        classifier=0, progress=False, **more,
    )  # fmt: skip
    layers = {key.rsplit(".", 1)[0] for key in made.tensors()}
    assert layers and all(".language_model." in one for one in layers)
    with conceptguard.attach(tiny_llava(), {"guards": [{"method": name, "artifact": str(made.folder)}]}):
        pass


def vision_encoder_decoder() -> tuple[Any, Any]:
    """A picture encoder, and a decoder that attends to it: its prompts have no places for pictures."""
    vision = ViTConfig(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                       image_size=SIDE, patch_size=PATCH)  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, tiny_gpt2().config)
    return VisionEncoderDecoderModel(config).eval(), tokenizer()


def git() -> tuple[Any, Any]:
    """A captioner without cross-attention: what it sees stands before its text, in no place of a prompt."""
    tok = tokenizer()
    vision = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
              "image_size": SIDE, "patch_size": PATCH}  # fmt: skip
    torch.manual_seed(0)
    ends = {f"{name}_token_id": getattr(tok, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = GitConfig(
        vision_config=vision, vocab_size=len(tok), hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, **ends,
    )  # fmt: skip
    return GitForCausalLM(config).eval(), GitProcessor(CLIPImageProcessor(), tok)


@pytest.mark.parametrize("name", ["sauce", "siu"])
@pytest.mark.parametrize(("captioner", "says"), [
    (git, r"GitForCausalLM has no tokens in its prompts that stand for a picture: give a LLaVA-type model"),
    (vision_encoder_decoder, r"VisionEncoderDecoderModel.*give a (pair \(model, processor\)|decoder-only model)"),
])  # fmt: skip
def test_captioners_of_another_kind_are_refused(captioner: Any, says: str, name: str, tmp_path: Path) -> None:
    from seen_pictures import SETTINGS, folder_of_pictures

    model, reader = captioner()
    before = {key: one.clone() for key, one in model.state_dict().items()}
    data = str(folder_of_pictures(tmp_path / "pictures"))
    with pytest.raises(SessionError, match=says):
        method(name).make(
            host_for((model, reader)), "apple", tmp_path / "out", data=data, progress=False, **SETTINGS[name]
        )
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    assert all(torch.equal(one, before[key]) for key, one in model.state_dict().items())
