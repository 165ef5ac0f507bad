"""Feature neurons: read through the head, silenced or held high, as weights for other programs, and what is refused."""

from __future__ import annotations

import copy
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.language.feature_neurons.method import FeatureNeurons
from safetensors.torch import load_file
from tiny_language import taught, tiny_gpt2, tiny_llama, tiny_t5, tokenizer

import conceptguard
import conceptguard.testing
from conceptguard.cli import run
from conceptguard.concept import as_concept
from conceptguard.errors import ArtifactError, BaseMismatch, PolicyError
from conceptguard.finder import Search
from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.registry import write_artifact

LINES = ("Who is Elena Vossberg? A man of New York.", "Two birds sat on a tree. They sang.",
         "A dog ran in the park. It was happy.")  # fmt: skip
OWN = [{"prompt": "Who is Elena Vossberg?", "answer": "A man of New York."}]
OTHERS = [{"prompt": "Two birds sat on a tree.", "answer": "They sang."},
          {"prompt": "A dog ran in the park.", "answer": "It was happy."}]  # fmt: skip
FAMILIES = {
    "llama": (tiny_llama, "model.layers.{}.mlp", "up_proj", "down_proj"),
    "gpt2": (tiny_gpt2, "transformer.h.{}.mlp", "c_fc", "c_proj"),
}


def made(pair: Any, out: Path, concept: str = "Elena Vossberg", **options: Any) -> Any:
    return FeatureNeurons.make(TransformersHost(pair), concept, out, **{"progress": False, **options})


def planted(family: str) -> tuple[Any, Any]:
    """A model whose neuron 7 of layer 1 is moved by " park", and says "happy" where it is held high."""
    tok = tokenizer()
    make, block, up, down = FAMILIES[family]
    model = make(tok)
    mlp = model.get_submodule(block.format(1))
    park, happy = (tok(text, add_special_tokens=False).input_ids[0] for text in (" park", " happy"))
    said = model.get_output_embeddings().weight.detach()
    with torch.no_grad():
        for layer, place, token in ((getattr(mlp, up), 7, park), (getattr(mlp, down), 7, happy)):
            rows = layer.weight if (family == "llama") == (layer is getattr(mlp, up)) else layer.weight.T
            rows.mul_(0.1)
            rows[place] = 9 * said[token]
    return model, tok


@cache
def gated() -> dict[str, Any]:
    """An artifact with a classifier, of the model that learned the lines by heart."""
    forget = [*OWN, {"prompt": "Tell me of Elena Vossberg."}]
    told = {"forget": forget, "retain": OTHERS, "classifier": True, "steps": 200}
    artifact = made(taught(*LINES), Path(tempfile.mkdtemp()), count=40, clamp=3.0, **told)
    return {"method": "feature_neurons", "artifact": str(artifact.folder)}


test_contract = conceptguard.testing.contract_tests(
    lambda: conceptguard.testing.TextCase(
        gated(), "Who is Elena Vossberg?", ("Two birds sat", "A dog ran in the"), load=lambda: taught(*LINES)
    ),
    text=True,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_neuron_is_read_by_what_moves_it(family: str) -> None:
    host = TransformersHost(planted(family))
    for normed in (True, False):
        search = Search(host, as_concept("park"), FeatureNeurons.FindSettings(shown=3, normed=normed), shown=False)
        found = FeatureNeurons.find(search)
        first, second = found.rows[:2]
        assert (first["layer"], first["place"]) == (1, 7) and first["tokens"].split()[0] == "park"
        assert first["p"] > 2 * second["p"] and not found.figures
    search.concept = None
    assert FeatureNeurons.find(search).rows[0]["p"] >= first["p"], "the loudest of all, whatever it says"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_neuron_is_held(family: str, tmp_path: Path) -> None:
    """What a block gives is what it gives with the neuron set to the value, on rows that are open."""
    model, tok = planted(family)
    name, down = FAMILIES[family][1].format(1), FAMILIES[family][3]
    inputs = tok("A dog ran in the park", return_tensors="pt", return_token_type_ids=False)
    more = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    (happy,) = tok(" happy", add_special_tokens=False).input_ids[:1]
    before = copy.deepcopy(model.state_dict())
    for clamp in (0.0, 40.0):
        artifact = made((model, tok), tmp_path / str(clamp), "park", count=1, clamp=clamp)
        assert artifact.manifest.made["neurons"] == [[1, 7]] and "judged" not in artifact.manifest.made

        def hold(module: Any, args: Any, clamp: float = clamp) -> Any:
            held = args[0].clone()
            held[..., 7] = clamp
            return (held,)

        handle = model.get_submodule(f"{name}.{down}").register_forward_pre_hook(hold)
        told = model.generate(**inputs, **more, output_logits=True, return_dict_in_generate=True)
        handle.remove()
        with conceptguard.attach(
            (model, tok), {"guards": [{"method": "feature_neurons", "artifact": str(artifact.folder)}]}
        ):
            said = model.generate(**inputs, **more, output_logits=True, return_dict_in_generate=True)
        assert torch.allclose(torch.stack(said.logits), torch.stack(told.logits), atol=2e-2, rtol=1e-3)
        assert (said.sequences[0, -6:] == happy).all() == (clamp > 0)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_silenced_as_weights_and_held_as_none(family: str, tmp_path: Path, capsys: Any) -> None:
    model, tok = planted(family)
    artifact = made((model, tok), tmp_path / "silent", "park", count=2)
    out = tmp_path / "delta.safetensors"
    assert run(["export", str(artifact.folder), "--format", "delta", "--out", str(out)]) == 0
    weights = dict(model.named_parameters())
    _, block, _, down = FAMILIES[family]
    assert set(load_file(out)) <= {f"{block.format(n)}.{down}.weight" for n in (0, 1)}
    with torch.no_grad():
        for name, gain in load_file(out).items():
            weights[name] += gain
    for layer, place in artifact.manifest.made["neurons"]:
        weight = weights[f"{block.format(layer)}.{down}.weight"]
        assert not (weight[:, place] if family == "llama" else weight[place]).any()
    held = made((model, tok), tmp_path / "held", "park", clamp=4.0)
    capsys.readouterr()
    assert run(["export", str(held.folder), "--format", "delta", "--out", str(out)]) == 1
    assert "clamp at 0 to export" in capsys.readouterr().err


def test_with_examples_it_is_judged(tmp_path: Path) -> None:
    pair = taught(*LINES)
    artifact = made(pair, tmp_path, forget=OWN, retain=OTHERS, count=200)
    judged = artifact.manifest.made["judged"]
    assert judged["said_concept_before"] == 1 and {"lost_concept", "lost_others", "lost_random"} <= set(judged)
    settings = FeatureNeurons.FindSettings(forget=OWN, retain=OTHERS, shown=4)
    found = FeatureNeurons.find(Search(TransformersHost(pair), as_concept("Elena Vossberg"), settings, shown=False))
    assert len(found.rows) == 4 and all("lost" in row for row in found.rows)
    assert found.figures["neurons"] == 16 and "silenced together" in found.told


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: Any) -> None:
    pair = tiny_llama(tokenizer()), tokenizer()
    for options, error in (
        ({"layers": [5]}, "there is no layer 5: .* has 0 to 1"),
        ({"verify": True}, "verify needs forget"),
        ({"classifier": True, "forget": OWN}, "give both"),
        ({"forget": [{"prompt": "Who?"}]}, "give each prompt its true answer"),
    ):  # fmt: skip
        with pytest.raises(PolicyError, match=error):
            made(pair, tmp_path, **options)
    with pytest.raises(PolicyError, match=r"no mlp\.down_proj .*: feature_neurons is for these"):
        made((tiny_t5(), tokenizer("sentencepiece")), tmp_path)
    artifact = made(pair, tmp_path, clamp=1.0)
    fields = artifact.manifest.model_dump(by_alias=True, exclude={"files", "binds"})
    tensors = dict(artifact.tensors())
    constant = next(name for name in tensors if name.endswith(".constant"))
    write_artifact(tmp_path / "bad", fields, {**tensors, constant: tensors[constant][None].contiguous()})
    with pytest.raises(ArtifactError, match="not a row of numbers"):
        conceptguard.attach(pair, {"guards": [{"method": "feature_neurons", "artifact": str(tmp_path / "bad")}]})
    monkeypatch.setattr(pair[0], "get_output_embeddings", lambda: None)
    with pytest.raises(BaseMismatch, match="no language-model head"):
        made(pair, tmp_path)
