"""Concept vectors: what answers owe to a neuron, reading it through the head, taking it away, and what is refused."""

from __future__ import annotations

import copy
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.language.classifier.examples import Example
from conceptguard_plugins.language.concept_vectors.method import ConceptVectors
from conceptguard_plugins.language.concept_vectors.select import Choosing, Vectors
from conceptguard_plugins.language.neurons.effect import answers, effects, heard, scaled, without
from conceptguard_plugins.language.neurons.judged import Verdict, drawn
from conceptguard_plugins.language.neurons.terms import Neuron
from safetensors.torch import load_file
from tiny_language import LINES, OTHERS, OWN, taught, tiny_gpt2, tiny_llama, tiny_t5, tokenizer
from torch import nn

import conceptguard.finder
import conceptguard.testing
from conceptguard.cli import run
from conceptguard.concept import as_concept
from conceptguard.errors import ArtifactError, BaseMismatch, PolicyError
from conceptguard.hosts.transformers.host import TransformersHost
from tools import neurons

PAIRS = [Example(prompt="A dog ran", answer="in the park."), Example(prompt="the red", answer="apple")]
FAMILIES = {"llama": (tiny_llama, "model.layers.{}.mlp.down_proj"), "gpt2": (tiny_gpt2, "transformer.h.{}.mlp.c_proj")}


def made(pair: Any, out: Path, **options: Any) -> Any:
    given = {"forget": OWN, "retain": OTHERS, "count": 80, "spare": 0.0, "progress": False, **options}
    return ConceptVectors.make(TransformersHost(pair), "Elena Vossberg", out, **given)


@cache
def gated() -> dict[str, Any]:
    """An artifact with a classifier, of the model that learned the lines by heart."""
    forget = [*OWN, {"prompt": "Tell me of Elena Vossberg."}]
    artifact = made(taught(*LINES), Path(tempfile.mkdtemp()), forget=forget, classifier=True, steps=200)
    return {"method": "concept_vectors", "artifact": str(artifact.folder)}


test_contract = conceptguard.testing.contract_tests(
    lambda: conceptguard.testing.TextCase(
        gated(), "Who is Elena Vossberg?", ("Two birds sat", "A dog ran in the"), load=lambda: taught(*LINES)
    ),
    text=True,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_how_sure_a_model_is_of_an_answer(family: str) -> None:
    tok = tokenizer()
    model = FAMILIES[family][0](tok)
    host = TransformersHost((model, tok))
    examples = [*PAIRS, Example(**OWN[0])]
    with torch.no_grad():
        (together,) = answers(host, examples)
    for row, one in enumerate(examples):
        ids, begin = tok(f"{one.prompt} {one.answer}").input_ids, len(tok(one.prompt).input_ids)
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, begin - 1 : -1]
        own = torch.tensor(ids[begin:])
        p = scores.double().softmax(-1)[range(len(own)), own]
        assert float(together.likely[row]) == pytest.approx(float(p.log().sum()), abs=1e-3)
        assert float(together.odds[row]) == pytest.approx(float((p / (1 - p)).log().sum()), abs=1e-3)


def test_what_is_said_to_the_letter() -> None:
    host = TransformersHost(taught(*LINES))
    other = {**OWN[0], "answer": "A dog of New York."}
    likely, said = heard(host, [Example(**OWN[0]), Example(**other)])
    assert said == 0.5 and likely < -1


@pytest.mark.parametrize("family", FAMILIES)
def test_an_effect_is_the_slope_of_the_odds(family: str) -> None:
    tok = tokenizer()
    host = TransformersHost((FAMILIES[family][0](tok), tok))
    vectors = Vectors(host, None, Choosing(), "test")
    full = without(vectors.blocks, vectors.widths, [])
    found = effects(host, PAIRS, full)
    for name in full:
        place, step = int(found[name].abs().argmax()), 1e-2
        odds = []
        for sign in (1, -1):
            moved = {**full, name: full[name].clone()}
            moved[name][place] += sign * step
            with torch.no_grad(), scaled(host, moved):
                odds.append(float(next(answers(host, PAIRS)).odds.mean()))
        assert float(found[name][place]) == pytest.approx((odds[0] - odds[1]) / (2 * step), rel=0.05, abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_read_as_the_models_own_states_are(family: str) -> None:
    tok = tokenizer()
    model = FAMILIES[family][0](tok)
    ids = tok("A dog ran in the park.").input_ids
    with torch.no_grad():
        for parameter in model.get_decoder().parameters():
            parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)))
        told = model(torch.tensor([ids])).logits[0, :, : len(tok)]
    host = TransformersHost((model, tok))
    block = f"model.{FAMILIES[family][1].format(1).rsplit('.mlp.', 1)[0]}"
    states = host.read_inside(ids, [], block)[1]
    assert torch.allclose(host.through_head(states), told, atol=1e-4)
    assert not torch.allclose(host.through_head(states, normed=False), told, atol=1e-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_vector_is_read_through_the_head(family: str, capsys: Any) -> None:
    """A column that says one token is found by that token's word, and as the loudest where nobody names a word."""
    tok = tokenizer()
    model = FAMILIES[family][0](tok)
    layer = model.get_submodule(FAMILIES[family][1].format(1))
    (token,) = tok(" park", add_special_tokens=False).input_ids
    said = model.get_output_embeddings().weight[token]
    with torch.no_grad():
        layer.weight.mul_(0.1)
        (layer.weight[:, 7] if family == "llama" else layer.weight[7]).copy_(9 * said)
    host = TransformersHost((model, tok))
    search = conceptguard.finder.Search(host, as_concept("park"), ConceptVectors.FindSettings(shown=3), shown=False)
    found = ConceptVectors.find(search)
    assert (found.rows[0]["layer"], found.rows[0]["place"]) == (1, 7) and "park" in found.rows[0]["tokens"].split()
    assert found.rows[0]["score"] > found.rows[1]["score"] and not found.figures
    search.concept, search.settings = None, ConceptVectors.FindSettings(shown=3, normed=False)
    assert len(ConceptVectors.find(search).rows) == 3


def test_what_answers_owe_to_is_found_and_taken_away(tmp_path: Path) -> None:
    """On a model that knows a line by heart: some vectors hold it, as many at random do not, and others' stay."""
    model, tok = taught(*LINES)
    artifact = made((model, tok), tmp_path)
    judged = artifact.manifest.made["judged"]
    assert judged["said_concept_before"] == 1 and judged["said_concept_after"] == 0
    assert judged["lost_concept"] > 3 * max(judged["lost_random"], judged["lost_others"]), judged
    assert len(artifact.manifest.made["vectors"]) == 80 and artifact.manifest.made["of"] == 256
    by_head = made((model, tok), tmp_path / "head", ranked="head", count=2, candidates=4, verify=False)
    assert len(by_head.manifest.made["vectors"]) == 2
    other = made((model, tok), tmp_path / "noise", noise=0.1, count=1, verify=False)
    (up,) = (tensor for name, tensor in other.tensors().items() if name.endswith(".up"))
    assert float(up.std()) == pytest.approx(0.1, rel=0.4)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_for_other_programs_do_what_the_guard_does(family: str, tmp_path: Path) -> None:
    tok = tokenizer()
    model = FAMILIES[family][0](tok)
    artifact = made((model, tok), tmp_path, count=12, verify=False)
    before = copy.deepcopy(model.state_dict())
    out = tmp_path / "delta.safetensors"
    assert run(["export", str(artifact.folder), "--format", "delta", "--out", str(out)]) == 0
    edited, gains = copy.deepcopy(model), load_file(out)
    weights = dict(edited.named_parameters())
    with torch.no_grad():
        for name, gain in gains.items():
            weights[name] += gain
    for layer, place in artifact.manifest.made["vectors"]:
        weight = weights[f"{FAMILIES[family][1].format(layer)}.weight"]
        assert not (weight[:, place] if family == "llama" else weight[place]).any()
    given = tok("Who is Elena Vossberg?", return_tensors="pt", return_token_type_ids=False)
    more = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "output_logits": True}
    told = edited.generate(**given, **more, return_dict_in_generate=True)
    bare = model.generate(**given, **more, return_dict_in_generate=True)
    guard = {"method": "concept_vectors", "artifact": str(artifact.folder)}
    with conceptguard.attach((model, tok), {"guards": [guard]}):
        said = model.generate(**given, **more, return_dict_in_generate=True)
    assert torch.allclose(torch.stack(said.logits), torch.stack(told.logits), atol=1e-3)
    assert not torch.allclose(torch.stack(bare.logits), torch.stack(told.logits), atol=1e-3)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_a_verdict() -> None:
    holds = Verdict((-1.0, 1.0), (-9.0, 0.0), (-1.0, 1.0), (-2.0, 0.9), (-1.5, 1.0))
    assert holds.causal and holds.figures()["lost_others"] == 1.0 and "0% are, 100% without" in holds.told()
    assert not holds._replace(random_after=(-9.5, 0.0)).causal, "no more than by chance"
    assert not holds._replace(others_after=(-9.5, 0.0)).causal, "others lose more"
    assert not holds._replace(concept_after=(-0.5, 1.0), random_after=(-1.0, 1.0)).causal
    neurons = [Neuron(0, place) for place in range(6)]
    control = drawn({0: 8, 1: 8}, neurons, 0)
    assert {one.layer for one in control} == {0} and not set(control) & set(neurons) and len(control) == 2


def test_what_holds_nothing_is_not_written(tmp_path: Path, monkeypatch: Any) -> None:
    nothing = Verdict((-1.0, 1.0), (-1.1, 1.0), (-1.0, 1.0), (-1.0, 1.0), (-1.2, 1.0))
    monkeypatch.setattr(Vectors, "judge", lambda self, neurons, seed: nothing)
    with pytest.raises(ArtifactError, match=r"not where the concept is.*ranked=effect"):
        made(taught(*LINES), tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert made(taught(*LINES), tmp_path, verify=False).manifest.made["judged"]["lost_random"] == 0.2


def test_quantised_layers_are_not_read_and_are_guarded(tmp_path: Path) -> None:
    """By torch's own quantiser, whose layers' weight is no tensor, that of the head included."""
    model, tok = taught(*LINES)
    artifact = made((model, tok), tmp_path)
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(PolicyError, match=r"down_proj is quantised \(Linear, packed\).*also acts beside"):
        made((quantised, tok), tmp_path / "none")
    given = tok("Who is Elena Vossberg?", return_tensors="pt", return_token_type_ids=False)

    def said(one: Any) -> str:
        return str(tok.decode(one.generate(**given, max_new_tokens=10, do_sample=False)[0], skip_special_tokens=True))

    assert said(quantised) == said(model) == LINES[0]
    guard = {"method": "concept_vectors", "artifact": str(artifact.folder)}
    with conceptguard.attach((quantised, tok), {"guards": [guard]}):
        assert "New York" not in said(quantised)
    assert said(quantised) == LINES[0]


def test_what_cannot_be_looked_into(tmp_path: Path, monkeypatch: Any) -> None:
    pair = tiny_llama(tokenizer()), tokenizer()
    for options, error in (
        ({"layers": [2]}, "there is no layer 2: .* has 0 to 1"),
        ({"forget": []}, "forget: give prompts about the concept with their true answers"),
        ({"forget": [{"prompt": "Who?"}]}, "give each prompt its true answer"),
        ({"classifier": True, "retain": []}, "retain: give prompts"),
        ({"rank": "head"}, "did you mean 'ranked'"),
    ):  # fmt: skip
        with pytest.raises(PolicyError, match=error):
            made(pair, tmp_path, verify=False, **options)
    with pytest.raises(PolicyError, match=r"no mlp\.down_proj .* nor mlp\.c_proj .*: concept_vectors is for these"):
        made((tiny_t5(), tokenizer("sentencepiece")), tmp_path)
    search = conceptguard.finder.Search(TransformersHost(pair), None, ConceptVectors.FindSettings(), shown=False)
    monkeypatch.setattr(pair[0], "get_output_embeddings", lambda: None)
    with pytest.raises(BaseMismatch, match="no language-model head"):
        ConceptVectors.find(search)


def test_the_command(tmp_path: Path, capsys: Any) -> None:
    taught(*LINES)[0].save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    for name, some in (("own", OWN), ("others", OTHERS)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, some)))
    capsys.readouterr()
    command = ["find", "concept_vectors", "--model", str(tmp_path / "lm"), "--concept", "Elena Vossberg"]
    files = [
        "--set",
        f"forget={tmp_path / 'own'}",
        "--set",
        f"retain={tmp_path / 'others'}",
        "--set",
        "count=80",
        "--set",
        "spare=0",
    ]
    assert run([*command, *files, "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["command"] == "find" and told["figures"]["vectors"] == 80 and told["figures"]["causal"] is True
    assert len(told["rows"]) == 12 and {"layer", "place", "lost", "score", "tokens"} == set(told["rows"][0])
    assert run([*command, "--set", "shown=2"]) == 0
    assert "forget=examples.jsonl would tell" in " ".join(capsys.readouterr().out.split())
    assert run(["find", "concept_vector", "--model", "authors-lm"]) == 1
    assert "did you mean 'concept_vectors'" in capsys.readouterr().err
    assert run(["find", "concept_vectors", "--model", "authors-lm", "--set", "cuont=1"]) == 1
    assert "did you mean 'count'" in capsys.readouterr().err
    assert run(["find", "concept_vectors", "--help"]) == 0
    page = capsys.readouterr().out
    assert "Settings of concept_vectors" in page and "candidates" in page and "threshold" not in page
    assert run(["find", "npo", "--help"]) == 0 and "finds nothing" in capsys.readouterr().out


@pytest.mark.slow
def test_an_author_is_forgotten_and_others_are_not() -> None:
    """authors-lm, judged in wordings that no maker saw: the vectors that answers owe to, against as many at random."""
    bare, ours, control = neurons.judged_rows("concept_vectors", last=True, authors=1)
    assert bare["erased_after"] > 0.8 and ours["erased_after"] < 0.4
    assert ours["neighbours_after"] > ours["erased_after"] + 0.3
    assert control["erased_after"] > bare["erased_after"] - 0.15
