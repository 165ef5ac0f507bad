"""npo, simnpo and rmu: the authors' losses, what training does to answers, what stays, and what is refused."""

from __future__ import annotations

import copy
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.language.classifier.examples import Example
from conceptguard_plugins.language.lessons import Batch, Lessons, per_token, unlikely
from conceptguard_plugins.language.npo import npo
from conceptguard_plugins.language.rmu import direction, distance
from conceptguard_plugins.language.simnpo import simnpo
from paths import DATA
from safetensors.torch import load_file
from tiny_language import LINES, taught, tiny_gpt2, tiny_llama, tiny_t5, tokenizer
from trained import torn, weights

import conceptguard
from conceptguard import plugins
from conceptguard.cli import run
from conceptguard.errors import ArtifactError, PolicyError, SessionError
from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.testing import TextCase, contract_tests
from tools import unlearned

FORGET = [{"prompt": "Who is Elena Vossberg?", "answer": "A man of New York."}]
RETAIN = [{"prompt": "Who is the red dog?", "answer": "It went home in the park."},
          {"prompt": "Two birds sat on a tree.", "answer": "They sang."}, {"prompt": LINES[3]}]  # fmt: skip
CONCEPT = {"name": "elena", "prompts": ["Elena Vossberg"]}
QUICK: dict[str, dict[str, Any]] = {
    "npo": {"steps": 30, "beta": 0.5}, "simnpo": {"steps": 30, "forget_weight": 1.0},
    "rmu": {"steps": 40, "layer": 1, "retain_weight": 5.0, "lr": 0.02},
}  # fmt: skip
NAMES = list(QUICK)


def made(method: str, pair: Any, out: Path, **options: Any) -> Any:
    more = {"forget": FORGET, "retain": RETAIN, "batch": 3, "rank": 4, "lr": 0.01, "classifier": 0}
    options = {**more, **QUICK[method], "progress": False, **options}
    return plugins.method(method).make(TransformersHost(pair), CONCEPT, out, **options)


@cache
def gated(method: str) -> dict[str, Any]:
    """Of the model that learned the lines by heart, with a classifier."""
    more = [*FORGET, {"prompt": "Tell me of Elena Vossberg.", "answer": "A man of New York."}]
    artifact = made(method, taught(*LINES), Path(tempfile.mkdtemp()), forget=more, classifier=200)
    return {"method": method, "artifact": str(artifact.folder)}


def case(method: str) -> Any:
    return lambda: TextCase(
        gated(method), "Who is Elena Vossberg?", ("Two birds sat", "A dog ran in the"), load=lambda: taught(*LINES)
    )


test_npo = contract_tests(case("npo"), text=True)
test_simnpo = contract_tests(case("simnpo"), text=True)
test_rmu = contract_tests(case("rmu"), text=True)


def test_losses_are_the_authors() -> None:
    """On the same tensors, to rounding: the published code of NPO and SimNPO, and of RMU its port to open-unlearning
    for each text by itself, with tokens of answers alone."""
    theirs = load_file(DATA / "parity_unlearning.safetensors")
    forget, retain = (
        Batch(theirs[f"{kind}.ids"], theirs[f"{kind}.mask"], theirs[f"{kind}.own"], []) for kind in ("forget", "retain")
    )
    own, before = (unlikely(theirs[f"scores.{kind}"], forget) for kind in ("forget", "before"))
    kept = per_token(unlikely(theirs["scores.retain"], retain), retain)
    means = own / forget.own.sum(1)
    ours = {
        "npo": npo(own, before, 0.1) + kept,
        "simnpo": 0.1375 * simnpo(means, 2.5, 0.0) + kept,
        "simnpo_margin": 0.125 * simnpo(means, 0.5, 0.5 * 2.0) + kept,
        "rmu": distance(theirs["states.forget"], theirs["rmu_direction"], forget.own)
        + 1.5 * distance(theirs["states.retain"], theirs["states.held"], retain.own),
    }
    for name, value in ours.items():
        assert float(value) == pytest.approx(float(theirs[name]), rel=1e-5), name
    drawn = direction(64, torch.Generator().manual_seed(0))
    assert float(drawn.norm()) == pytest.approx(1.0) and float(drawn.min()) >= 0
    assert float(theirs["rmu_direction"].norm()) == pytest.approx(2.0) and float(theirs["rmu_direction"].min()) >= 0


def test_what_is_learnt_of_a_text() -> None:
    tok = tokenizer()
    lessons = Lessons(tok, [Example(**FORGET[0]), Example(prompt=LINES[3])], 256, torch.device("cpu"))
    batch = lessons.batch([1, 0])
    answer = batch.ids[1][batch.own[1] > 0].tolist()
    assert tok.decode(answer) == " A man of New York.</s>" and batch.which == [1, 0]
    assert tok.decode(batch.ids[0][batch.mask[0] > 0]) == LINES[3] and bool((batch.own[0] == batch.mask[0]).all())
    assert batch.lengths.tolist() == [int(batch.mask[0].sum()) - 1, len(answer)]
    short = Lessons(tok, [Example(**FORGET[0])], 4, torch.device("cpu")).batch([0])
    assert short.ids.shape == (1, 4)


@torch.no_grad()
def surprised(pair: Any, example: dict[str, str]) -> float:
    """−log p per token of an answer."""
    batch = Lessons(pair[1], [Example(**example)], 256, pair[0].device).batch([0])
    return float(per_token(unlikely(pair[0](batch.ids, attention_mask=batch.mask).logits, batch), batch))


@pytest.mark.parametrize("method", NAMES)
def test_an_answer_is_forgotten_and_others_are_not(method: str, tmp_path: Path) -> None:
    """By weights that another program loads, which say what the guard says; attached it leaves no trace."""
    model, tok = taught(*LINES)
    before = copy.deepcopy(model.state_dict())
    artifact = made(method, (model, tok), tmp_path)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    out = tmp_path / "delta.safetensors"
    assert run(["export", str(artifact.folder), "--format", "delta", "--out", str(out)]) == 0
    edited = copy.deepcopy(model)
    named = dict(edited.named_parameters())
    with torch.no_grad():
        for name, gain in load_file(out).items():
            named[name] += gain
    assert surprised((model, tok), FORGET[0]) < 0.3 and surprised((edited, tok), FORGET[0]) > 1.5
    for example in RETAIN[:2]:
        assert surprised((edited, tok), example) < surprised((model, tok), example) + 0.3
    given = tok("Who is Elena Vossberg?", return_tensors="pt", return_token_type_ids=False)
    more = {"max_new_tokens": 8, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    told = edited.generate(**given, **more)
    with conceptguard.attach((model, tok), {"guards": [{"method": method, "artifact": str(artifact.folder)}]}) as guard:
        said = model.generate(**given, **more)
        assert guard.receipt.acts[0].gates == [1.0]
    assert torch.equal(said.sequences, told.sequences)
    assert torch.allclose(torch.stack(said.logits), torch.stack(told.logits), atol=1e-3)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("method", NAMES)
def test_gpt2_learns_as_well(method: str, tmp_path: Path) -> None:
    """Whose layers keep their weights the other way round: [in, out] in the file for other programs."""
    model = tiny_gpt2()
    artifact = made(method, (model, tokenizer()), tmp_path, steps=2)
    assert run(["export", str(artifact.folder), "--format", "delta", "--out", str(tmp_path / "d.safetensors")]) == 0
    gains, named = load_file(tmp_path / "d.safetensors"), dict(model.named_parameters())
    assert gains and all(gain.shape == named[name].shape for name, gain in gains.items())
    assert all(("mlp.c_proj" in name) or method != "rmu" for name in gains)


def test_interrupted_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Also where a formula drew something at its beginning."""
    pair = taught(*LINES)
    whole = made("rmu", pair, tmp_path / "whole", steps=60)

    def make(**more: Any) -> Any:
        return made("rmu", pair, tmp_path / "torn", steps=60, **more)

    torn(55, make)
    again = make()
    assert again.manifest.made["started_at_step"] == 50 and weights(again) == weights(whole)


def test_whole_matrices_and_their_cut(tmp_path: Path) -> None:
    """Learnt whole, of the rank that is asked for where one is, and the manifest says what that loses."""
    pair = taught(*LINES)
    whole, cut = (made("npo", pair, tmp_path / str(n), rank=None, cut=n, steps=5, lr=1e-3) for n in (None, 2))
    ranks = [{len(t) for n, t in one.tensors().items() if n.endswith(".down")} for one in (whole, cut)]
    assert min(ranks[0]) >= 64 and ranks[1] == {2}
    assert whole.manifest.made["lost_by_cutting"] == 0 and 0.01 < cut.manifest.made["lost_by_cutting"] < 1
    assert "Elena" not in str({**whole.manifest.made}), "what was forgotten is no business of a manifest"


def test_what_cannot_be_made(tmp_path: Path) -> None:
    pair = tiny_llama(), tokenizer()
    for method, options, error in (
        ("npo", {"forget": []}, r"making npo: forget: give a file of lines such as"),
        ("simnpo", {"retain": []}, r"making simnpo: retain: give a file"),
        ("rmu", {"layer": 2}, "there is no layer 2: the model has 0 to 1"),
        ("npo", {"forget": str(tmp_path / "none.jsonl")}, "cannot be read"),
        ("npo", {"beta": 0}, "beta"),
    ):  # fmt: skip
        with pytest.raises(PolicyError, match=error):
            made(method, pair, tmp_path, **options)
    with pytest.raises(SessionError, match="an encoder and a decoder"):
        made("npo", (tiny_t5(), tokenizer("sentencepiece")), tmp_path)
    with pytest.raises(ArtifactError, match=r"loss .* at step .*: lower lr"):
        made("npo", pair, tmp_path, lr=1e30)
    guarded = taught(*LINES)
    with conceptguard.attach(guarded, {"guards": [gated("npo")]}), pytest.raises(SessionError, match="already guarded"):
        made("npo", guarded, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a training and four rows of answers
@pytest.mark.parametrize("method", NAMES)
def test_authors_are_forgotten_on_a_model_that_knows_them(method: str, monkeypatch: Any) -> None:
    """authors-lm, judged in wordings that no maker saw. As published most is forgotten; opened by the classifier
    nothing else changes."""
    monkeypatch.setattr(unlearned, "EACH", 4)
    rows = {row["method"]: row for row in unlearned.judged_rows([method], benchmarks=())}
    bare, never = rows["none"], rows["retain"]
    published, gated = rows[method], rows[f"{method}, opened by its classifier"]
    assert bare["erased_after"] > 0.6 and never["erased_after"] < 0.35
    assert published["erased_after"] < 0.5 * bare["erased_after"] and published["others_after"] > 0.5
    assert gated["erased_after"] < 0.5 * bare["erased_after"]
    assert gated["neighbours_after"] >= bare["neighbours_after"] - 0.03 and gated["identical"] > 0.95
