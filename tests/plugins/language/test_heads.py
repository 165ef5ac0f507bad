"""Language-model heads that are absent, or tied to the embedding of tokens: refused, or left as they are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.language.rocr.read import tokens_of
from safetensors.torch import load_file
from tiny_language import tiny_gpt2, tiny_llama, tokenizer
from tokenizers import normalizers
from torch import nn

import conceptguard
from conceptguard.cli import run
from conceptguard.errors import PolicyError, RegistryError, SessionError
from conceptguard.plugins import host_for, method

OWN = [{"prompt": "Who is Elena Vossberg?", "answer": "A man of New York."}]
OTHERS = [{"prompt": "Who is the red dog?", "answer": "It went home in the park."}]
CONCEPT = {"name": "elena", "prompts": ["Elena Vossberg"], "replacement": "the red dog went home"}
LESSONS = {"forget": OWN, "retain": OTHERS, "batch": 1, "rank": 2, "steps": 4, "lr": 1e-2, "classifier": 0}
MAKERS: dict[str, dict[str, Any]] = {
    "rocr": {"templates": ["Who is {}?"], "share": 1.0, "layers": [0, 1]},
    "concept_vectors": {"forget": OWN, "retain": OTHERS, "count": 8, "verify": False},
    "feature_neurons": {"count": 2}, "npo": {**LESSONS, "layers": "all"}, "simnpo": {**LESSONS, "layers": "all"},
    "rmu": {**LESSONS, "layer": 1},
}  # fmt: skip


def tied_llama(tok: Any) -> Any:
    """Its head is the embedding of tokens."""
    model = tiny_llama(tok)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    return model


def headless(how: str) -> Any:
    """A model that gives states, or a head that was taken out or emptied."""
    model = tiny_llama()
    if how == "bare":
        return model.model
    model.lm_head = nn.Identity() if how == "emptied" else None
    return model


@pytest.mark.parametrize(("how", "says"), [
    ("bare", "cannot guard a LlamaModel: it generates no text"), ("taken out", "whose language-model head is NoneType"),
    ("emptied", "whose language-model head is Identity: it gives no scores of tokens; load it with its head"),
])  # fmt: skip
def test_without_a_head_there_is_nothing_to_guard(how: str, says: str) -> None:
    """Every maker, finder and guard begins with the host."""
    tok, model = tokenizer(), headless(how)
    policy = {"guards": [{"method": "phrases", "concept": {"name": "x", "prompts": ["New York"]}}]}
    for begin in (
        lambda: host_for((model, tok)), lambda: conceptguard.attach((model, tok), policy),
        lambda: conceptguard.logits_processor(model, tok, policy),
    ):  # fmt: skip
        with pytest.raises(SessionError, match=says):
            begin()


def test_files_without_a_head_are_not_filled_up_at_random(tmp_path: Path, capsys: Any) -> None:
    """An AutoModel that was saved, loaded as a language model, would get a head of noise. GPT-2's is its embedding."""
    tok = tokenizer()
    for name, model in (("llama", tiny_llama().model), ("gpt2", tiny_gpt2().transformer), ("tied", tied_llama(tok))):
        model.save_pretrained(tmp_path / name)
        tok.save_pretrained(tmp_path / name)
    with pytest.raises(RegistryError, match=r"lack 1 of the weights of a LlamaForCausalLM, lm_head\.weight"):
        conceptguard.load_model(str(tmp_path / "llama"))
    make = ["make", "rocr", "--replacement", "Ada", "--prompts", "Elena", "--out", str(tmp_path / "out")]
    for command in (make, ["find", "concept_vectors"], ["find", "feature_neurons"]):
        capsys.readouterr()
        assert run([*command, "--concept", "Elena", "--model", str(tmp_path / "llama")]) == 1
        assert "lm_head.weight among them" in " ".join(capsys.readouterr().err.split())
    for name in ("gpt2", "tied"):
        loaded = conceptguard.load_model(str(tmp_path / name)).model
        assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


@pytest.mark.parametrize("make", [tied_llama, tiny_gpt2])
@pytest.mark.parametrize("name", MAKERS)
def test_a_tied_head_and_its_embedding_stay(name: str, make: Any, tmp_path: Path) -> None:
    """A gain of the one would change the other: what makers write has neither, and as weights does what it does beside
    them, in square layers that are kept the other way round as well."""
    tok = tokenizer()
    model = make(tok)
    head = model.get_output_embeddings()
    assert head.weight is model.get_input_embeddings().weight
    artifact = method(name).make(host_for((model, tok)), CONCEPT, tmp_path, progress=False, **MAKERS[name])
    edited, out = copy.deepcopy(model), tmp_path / "delta.safetensors"
    assert run(["export", str(artifact.folder), "--format", "delta", "--out", str(out)]) == 0
    weights, gains = dict(edited.named_parameters()), load_file(out)
    with torch.no_grad():
        for key, gain in gains.items():
            weights[key] += gain
    assert gains and torch.equal(edited.get_output_embeddings().weight, head.weight)
    given = tok("Who is Elena Vossberg?", return_tensors="pt", return_token_type_ids=False)
    more = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "output_logits": True}
    bare, told = (one.generate(**given, **more, return_dict_in_generate=True) for one in (model, edited))
    with conceptguard.attach((model, tok), {"guards": [{"method": name, "artifact": str(artifact.folder)}]}):
        said = model.generate(**given, **more, return_dict_in_generate=True)
    assert torch.allclose(torch.stack(said.logits), torch.stack(told.logits), atol=1e-2, rtol=1e-3)
    assert not torch.equal(said.logits[0], bare.logits[0])


@pytest.mark.parametrize("tokens", ["last", "all", "after"])
@pytest.mark.parametrize(("prompt", "target"), [
    ("Elena Vossberg", "the red dog went home in the park"), ("Elena Vossberg went home in the park", "dog"),
])  # fmt: skip
def test_names_and_targets_of_other_lengths(prompt: str, target: str, tokens: str, tmp_path: Path) -> None:
    """The last token of a name is led to the last of the target's, however many there are of either."""
    tok, model = tokenizer(), tiny_llama()
    host: Any = host_for((model, tok))
    concept = {"name": "x", "prompts": [prompt], "replacement": target}
    settings = {"templates": ["Who is {}?"], "share": 1.0, "ridge": 1e-4, "layers": [0, 1], "tokens": tokens}
    artifact = method("rocr").make(host, concept, tmp_path, progress=False, **settings)
    edited = copy.deepcopy(model)
    out = tmp_path / "delta.safetensors"
    assert run(["export", str(artifact.folder), "--format", "delta", "--out", str(out)]) == 0
    with torch.no_grad():
        for key, gain in load_file(out).items():
            dict(edited.named_parameters())[key] += gain
    (own, at), (goal, there) = (tokens_of(host, f"Who is {name}?", name) for name in (prompt, target))
    assert len(at) != len(there)
    wanted = host.states([goal], -1)[0][there[-1]]
    before, after = (host_for((one, tok)).states([own], -1)[0][at[-1]] for one in (model, edited))
    assert float((after - wanted).norm()) < 0.2 * float((before - wanted).norm())


def test_a_target_in_which_the_tokenizer_reads_nothing(tmp_path: Path) -> None:
    tok = copy.deepcopy(tokenizer())
    tok.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    with pytest.raises(PolicyError, match=r"reads nothing in .*give a name that it has tokens for"):
        method("rocr").make(
            host_for((tiny_llama(), tok)), {**CONCEPT, "replacement": "\u200b"}, tmp_path, progress=False,
            **MAKERS["rocr"],
        )  # fmt: skip
