"""sauce and siu on tiny models that see: the contract, their arithmetic, and what is refused."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conceptguard_plugins.language.sauce.features import Features
from conceptguard_plugins.language.siu.make import Row, losses
from seen_pictures import QUESTION, TEXTS, folder_of_pictures, make, seen_case
from tiny_language import tiny_llama, tokenizer
from tiny_seeing import picture, tiny_llava

import conceptguard
from conceptguard.errors import ArtifactError, BaseMismatch, GuardError, PolicyError, SessionError
from conceptguard.plugins import host_for
from conceptguard.registry import open_artifact
from conceptguard.testing import contract_tests

ACTING: dict[str, dict[str, Any]] = {"sauce": {"scale": -8.0}, "siu": {}}


@cache
def artifact(name: str, family: str) -> str:
    return str(make(name, Path(tempfile.mkdtemp()), family).folder)


test_sauce_in_llava = contract_tests(lambda: seen_case("sauce", Path(tempfile.mkdtemp())), text=True)
test_siu_with_siglip_and_qwen = contract_tests(lambda: seen_case("siu", Path(tempfile.mkdtemp()), "qwen2"), text=True)


def features() -> Features:
    """Two directions of a space of three, and of these the first is the concept's."""
    axes = torch.eye(3)[:2]
    return Features(axes.clone(), torch.zeros(2), torch.zeros(3), axes[:1].clone(), torch.tensor([0]), 2, "layer")


def test_what_is_not_explained_stays_and_the_sign_is_right() -> None:
    states, gates = torch.tensor([[[2.0, 3.0, 5.0]]]), torch.ones(1)
    own = features()
    assert torch.equal(own.scaled(states, gates, 0.0), torch.tensor([[[0.0, 3.0, 5.0]]])), "less of it, and the rest"
    assert torch.equal(own.scaled(states, gates, -1.0), torch.tensor([[[-2.0, 3.0, 5.0]]]))
    assert torch.equal(own.scaled(states, gates * 0.5, 0.0), torch.tensor([[[1.0, 3.0, 5.0]]]))
    for same, scale in ((states, 1.0), (torch.tensor([[[-2.0, 3.0, 5.0]]]), 0.0)):
        assert torch.equal(own.scaled(same, gates, scale), same), "to the last bit where none of it is active"
    own.few = 1
    assert torch.equal(own.scaled(states, gates, 0.0), states), "what others are more than is not active"


def test_an_autoencoder_of_artifacts_explains_and_tells_apart(tmp_path: Path) -> None:
    made = make("sauce", tmp_path).manifest.made
    assert made["unexplained"] < 0.2 and made["share_of_concept"] > 0.6
    chance = make("sauce", tmp_path, at_random=True).manifest.made
    assert chance["share_of_concept"] < made["share_of_concept"]


def test_the_dual_mask() -> None:
    torch.manual_seed(0)
    before = torch.randn(4, 6).log_softmax(-1)
    ids = torch.tensor([0, int(before[0].argmax()), 3, 4, 5])
    row = Row(ids, 2, None, torch.cat([before, before[:1]]))
    same = torch.cat([before, before[:1]])[None]
    assert float(losses([row], same, torch.tensor([2]))[1]) == pytest.approx(0.0, abs=1e-6)
    other = same.clone()
    other[0, 2, 2] += 5.0
    assert float(losses([row], other, torch.tensor([2]))[1]) == pytest.approx(0.0, abs=1e-6), "the name's entries"
    says = int(before[1].argmax())
    changed = same.clone()
    changed[0, 1] = torch.randn(6)
    contradicts, agrees = (row._replace(ids=torch.tensor([0, 1, token, 4, 5])) for token in ((says + 1) % 6, says))
    assert float(losses([contradicts], changed, torch.tensor([]).long())[1]) == pytest.approx(0.0, abs=1e-6)
    assert float(losses([agrees], changed, torch.tensor([]).long())[1]) > 0.01, "a divergence, and never below zero"


@pytest.mark.parametrize("name", ["sauce", "siu"])
def test_pictures_alone_open_it(name: str) -> None:
    model, processor = tiny_llava()
    shown = processor(text=[QUESTION, "the dog"], images=[picture()], padding=True, return_tensors="pt")
    guard = {"method": name, "artifact": artifact(name, "llama"), **ACTING[name]}
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    bare = model.generate(**shown, **options)
    with conceptguard.attach((model, processor), {"guards": [guard]}) as session:
        out = model.generate(**shown, **options)
        assert session.receipt.acts[0].gates == [1.0, 0.0]
        assert not torch.equal(out[0], bare[0]) and torch.equal(out[1], bare[1])
        two = processor(text=["<image> <image> What", "<image> is"], images=[picture(), picture("blue"), picture()],
                        padding=True, return_tensors="pt")  # fmt: skip
        drawn = model.generate(**two, **options, num_beams=2, num_return_sequences=2)
        alone = processor(text=["<image> is"], images=[picture()], padding=True, return_tensors="pt")
        width = alone["input_ids"].shape[1]
        same = model.generate(**alone, **options, num_beams=2, num_return_sequences=2)
        assert torch.equal(drawn[2:, two["input_ids"].shape[1] :], same[:, width:]), "each picture with its own prompt"
    always = {**guard, "gate": "always"}
    with conceptguard.attach((model, processor), {"guards": [always]}):
        text = processor(text=["the dog"], return_tensors="pt")
        if name == "sauce":
            with pytest.raises(GuardError, match="did not run"):
                model.generate(**text, **options)
        else:
            model.generate(**text, **options)


def test_pictures_that_nobody_can_tell_apart() -> None:
    model, processor = tiny_llava()
    shown = processor(text=[QUESTION, QUESTION], images=[picture()] * 2, padding=True, return_tensors="pt")
    guard = {"method": "sauce", "artifact": artifact("sauce", "llama")}
    with conceptguard.attach((model, processor), {"guards": [guard]}), pytest.raises(GuardError, match="3 pictures"):
        model.generate(**{**shown, "pixel_values": torch.zeros(3, 3, 16, 16)}, max_new_tokens=2)


@pytest.mark.parametrize("name", ["sauce", "siu"])
def test_a_picture_of_one_pixel_is_seen(name: str, tmp_path: Path) -> None:
    """Among those that something is made of, and by the model under a guard."""
    folder = folder_of_pictures(tmp_path / "pictures")
    dot = picture(size=(1, 1))
    dot.save(folder / "apple" / "one.png")
    dot.convert("L").save(folder / "sky" / "grey.png")
    made = make(name, tmp_path)
    model, processor = tiny_llava()
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "output_logits": True}
    shown = processor(text=[QUESTION], images=[dot], return_tensors="pt")
    bare = model.generate(**shown, **options, return_dict_in_generate=True)
    guard = {"method": name, "artifact": str(made.folder), **ACTING[name]}
    with conceptguard.attach((model, processor), {"guards": [guard]}) as session:
        out = model.generate(**shown, **options, return_dict_in_generate=True)
        assert session.receipt.acts[0].gates == [1.0]
    assert not torch.equal(out.logits[0], bare.logits[0])
    assert host_for((model, processor)).sight().pixels(torch.rand(2, 3, 1, 1)).shape == (2, 3, 16, 16)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no class 'moon'"):
        conceptguard.plugins.method("sauce").make(
            host_for(tiny_llava()), "moon", tmp_path, data=str(folder_of_pictures(tmp_path / "p")), progress=False
        )
    with pytest.raises(PolicyError, match="brings no pictures: give --set data=FOLDER"):
        conceptguard.plugins.method("sauce").make(host_for(tiny_llava()), "apple", tmp_path, progress=False)
    with pytest.raises(SessionError, match=r"give a pair \(model, processor\)"):
        host_for((tiny_llama(), tokenizer())).sight()
    model, processor = tiny_llava()
    with pytest.raises(SessionError, match=r"give a pair \(model, processor\)"):
        host_for((model, processor.tokenizer)).sight()
    with pytest.raises(BaseMismatch, match=r"has no layer model\.nowhere"):
        make("sauce", tmp_path, layer="model.nowhere")
    with pytest.raises(BaseMismatch, match="gives no states of each picture"):
        make("sauce", tmp_path, layer="model.model.language_model.layers.0")
    with pytest.raises(PolicyError, match="no texts of the group fact"):
        make("siu", tmp_path, texts=[one for one in TEXTS if one["group"] != "fact"])
    with pytest.raises(PolicyError, match="another thing that the model can name"):
        make("siu", tmp_path, texts=[])
    bad = tmp_path / "texts.jsonl"
    bad.write_text('{"prompt": "x"}\n')
    with pytest.raises(PolicyError, match="line 1: not a text"):
        make("siu", tmp_path, texts=str(bad))


@pytest.mark.parametrize("part", ["encoder", "chosen", "directions", "bias"])
def test_damaged_features_are_refused(part: str) -> None:
    made = open_artifact(Path(artifact("sauce", "llama")))
    tensors = dict(made.tensors())
    assert Features.read(SimpleNamespace(ref="x", tensors=lambda: tensors, manifest=made.manifest)).layer  # type: ignore
    tensors[part] = tensors[part] + 10_000 if part == "chosen" else tensors[part][..., :-1]
    with pytest.raises(ArtifactError, match="do not fit together"):
        Features.read(SimpleNamespace(ref="x", tensors=lambda: tensors, manifest=made.manifest))  # type: ignore
