"""Quantised models: what reads weights says so, what reads states or trains terms beside layers works on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from packed_layers import quantised
from safetensors.torch import load_file
from tiny_language import LINES, OTHERS, OWN, taught

import conceptguard
from conceptguard.cli import run
from conceptguard.concept import as_concept
from conceptguard.errors import BaseMismatch, PolicyError, SessionError
from conceptguard.finder import Search
from conceptguard.plugins import host_for, method

KINDS = ["int8", "four_bit", "packed"]
LESSONS = {"forget": OWN, "retain": OTHERS, "batch": 1, "rank": 2, "steps": 8, "lr": 1e-2, "classifier": 0}
TRAINED: dict[str, dict[str, Any]] = {"npo": LESSONS, "simnpo": LESSONS, "rmu": {**LESSONS, "layer": 1}}


def said(model: Any, tok: Any) -> str:
    given = tok("Who is Elena Vossberg?", return_tensors="pt", return_token_type_ids=False)
    return str(tok.decode(model.generate(**given, max_new_tokens=10, do_sample=False)[0], skip_special_tokens=True))


def scores(model: Any, tok: Any) -> Any:
    given = tok("Who is Elena Vossberg?", return_tensors="pt", return_token_type_ids=False)
    more = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    return model.generate(**given, **more).logits[0]


def attached(pair: Any, name: str, artifact: Any) -> Any:
    return conceptguard.attach(pair, {"guards": [{"method": name, "artifact": str(artifact.folder)}]})


@pytest.mark.parametrize("kind", KINDS)
def test_the_models_still_say_their_lines(kind: str) -> None:
    model, tok = taught(*LINES)
    assert said(quantised(model, kind), tok) == said(model, tok) == LINES[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["concept_vectors", "feature_neurons"])
def test_neurons_cannot_be_read(name: str, kind: str, tmp_path: Path) -> None:
    model, tok = taught(*LINES)
    host = host_for((quantised(model, kind), tok))
    with pytest.raises(PolicyError, match=r"_proj is quantised .*use the model in 16 or 32 bits"):
        method(name).make(host, "Elena Vossberg", tmp_path, forget=OWN, retain=OTHERS, progress=False)
    search = Search(host, as_concept("Elena Vossberg"), method(name).FindSettings(), shown=False)
    with pytest.raises(PolicyError, match=r"_proj is quantised"):
        method(name).find(search)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_read_and_redirected(kind: str, tmp_path: Path) -> None:
    """Its terms are solved on, and act beside, quantised layers; exported they have the shape of whole weights."""
    model, tok = taught(*LINES)
    other = quantised(model, kind)
    concept = {"name": "elena", "prompts": ["Elena Vossberg"], "replacement": "the red dog"}
    settings = {"templates": ["Who is {}?"], "share": 1.0, "ridge": 1e-4, "tokens": "after", "layers": [0, 1]}
    made = method("rocr").make(host_for((other, tok)), concept, tmp_path, progress=False, **settings)
    bare = scores(other, tok)
    with attached((other, tok), "rocr", made):
        assert not torch.allclose(scores(other, tok), bare, atol=0.1)
    assert torch.equal(scores(other, tok), bare)
    out = tmp_path / "delta.safetensors"
    assert run(["export", str(made.folder), "--format", "delta", "--out", str(out)]) == 0
    whole = model.state_dict()
    assert {name: one.shape for name, one in load_file(out).items()} == {
        name: whole[name].shape for name in (f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1))
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRAINED)
def test_terms_are_trained_where_gradients_go_through(name: str, kind: str, tmp_path: Path) -> None:
    model, tok = taught(*LINES)
    pair = quantised(model, kind), tok
    if kind == "packed":
        with pytest.raises(SessionError, match=r"q_proj is packed by a quantiser, and no gradient goes through it"):
            method(name).make(host_for(pair), "Elena Vossberg", tmp_path, progress=False, **TRAINED[name])
        assert not list(tmp_path.rglob("*.safetensors"))
        return
    made = method(name).make(host_for(pair), "Elena Vossberg", tmp_path, progress=False, **TRAINED[name])
    bare = scores(*pair)
    with attached(pair, name, made):
        assert not torch.allclose(scores(*pair), bare, atol=1e-3)
    assert torch.equal(scores(*pair), bare)


@pytest.mark.parametrize("reads", ["words", "states"])
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_and_tokens_are_guarded(kind: str, reads: str, tmp_path: Path) -> None:
    model, tok = taught(*LINES)
    pair = quantised(model, kind), tok
    settings = {"forget": OWN * 5, "retain": OTHERS * 3, "steps": 60, "reads": reads}
    made = method("guard").make(host_for(pair), "Elena Vossberg", tmp_path, progress=False, **settings)
    with attached(pair, "guard", made):
        assert "New York" not in said(*pair)
    assert said(*pair) == LINES[0]


@pytest.mark.parametrize("name", ["four_bit", "relearn_facts"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_attacks_weights_needs_weights(name: str, kind: str) -> None:
    from conceptguard.attacking.language.sides import demand_numbers

    with pytest.raises(BaseMismatch, match=rf"{name} changes weights, and those of layer model\.layers\.0\..*16 or 32"):
        demand_numbers(quantised(taught(*LINES)[0], kind), name)
    demand_numbers(taught(*LINES)[0], name)
