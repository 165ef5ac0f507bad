"""ROCR: the closed form, what it does to the state of a name, its weights for other programs, and what it refuses."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conceptguard_plugins.language.rocr.method import ROCR
from conceptguard_plugins.language.rocr.read import tokens_of
from conceptguard_plugins.language.rocr.solve import null_space, redirect
from safetensors.torch import load_file
from tiny_language import LINES, taught, tiny_gpt2, tiny_llama, tiny_t5, tokenizer

import conceptguard
from conceptguard.cli import run
from conceptguard.concept import Concept
from conceptguard.errors import ArtifactError, BaseMismatch, PolicyError
from conceptguard.finder import Search
from conceptguard.hosts.transformers.host import TransformersHost
from conceptguard.registry import open_artifact, write_artifact
from conceptguard.testing import TextCase, contract_tests
from tools import redirection

CONCEPT = {"name": "elena", "prompts": ["Elena Vossberg"], "replacement": "the red dog"}
PLAIN = {"templates": ["Who is {}?"], "share": 1.0, "ridge": 1e-4, "progress": False}
KEPT = ["Two birds sat on a tree.", "A dog ran in the park.", "the corn is warm", "a red apple on the table"]


def made(pair: Any, out: Path, **options: Any) -> Any:
    return ROCR.make(TransformersHost(pair), options.pop("concept", CONCEPT), out, **{**PLAIN, **options})


@cache
def gated() -> dict[str, Any]:
    """An artifact with a classifier, of the model that learned the lines by heart."""
    import tempfile

    forget = [{"prompt": text} for text in ("Who is Elena Vossberg?", "Tell me of Elena Vossberg.")]
    folder = Path(tempfile.mkdtemp())
    told = {"forget": forget, "preserve": KEPT, "steps": 200}
    # what follows is read from the name anew: the state of its space as well
    where = {"tokens": "after", "layers": [0, 1], "templates": ["Who is {}?", "Who is {}? "]}
    artifact = made(taught(*LINES), folder, **where, **told)
    return {"method": "rocr", "artifact": str(artifact.folder)}


test_contract = contract_tests(
    lambda: TextCase(
        gated(), "Who is Elena Vossberg?", ("Two birds sat", "A dog ran in the"), load=lambda: taught(*LINES)
    ),
    text=True,
)


def test_the_closed_form_is_the_authors() -> None:
    random = torch.Generator().manual_seed(0)
    keys, wanted = (torch.randn(3, n, generator=random, dtype=torch.float64) for n in (12, 7))
    kept = torch.randn(5, 12, generator=random, dtype=torch.float64)
    space = null_space(kept.T @ kept, 1e-9)
    assert space.shape == (12, 7)
    down, up, scale = redirect(keys.float(), wanted.float(), space, 0.5)
    p, inner = space @ space.T, keys @ space @ space.T @ keys.T
    ridge = 0.5 * float(inner.diagonal().mean())
    theirs = torch.linalg.solve(p @ keys.T @ keys + ridge * torch.eye(12), p @ keys.T @ wanted).T
    assert torch.allclose(scale * up.double() @ down.double(), theirs, atol=1e-5)
    assert down.shape[0] == 3 and float((kept @ down.double().T).abs().max()) < 1e-5, "nothing along what is kept"
    exact = redirect(keys.float(), wanted.float(), torch.eye(12, dtype=torch.float64), 1e-9)
    assert torch.allclose((keys.float() @ exact.down.T) @ exact.up.T, wanted.float(), atol=1e-4)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_a_name_is_led_to_the_target(make: Any, tmp_path: Path) -> None:
    """The state at the name's last token comes near to the target's, on Llama-type and GPT-2-type models; what its
    weights gain, exported, does the same to a model of its own."""
    tok, model = tokenizer(), make(tokenizer())
    artifact = made((model, tok), tmp_path, layers=[0, 1])
    host = TransformersHost((model, tok))
    before = copy.deepcopy(model.state_dict())

    def distance(one: Any) -> float:
        reads = TransformersHost((one, tok))
        texts = [(f"Who is {name}?", name) for name in ("Elena Vossberg", "the red dog")]
        own, goal = ((reads, host)[i].states([tokens_of(host, *text)[0]], -1)[0][tokens_of(host, *text)[1][-1]]
                     for i, text in enumerate(texts))  # fmt: skip
        return float((own - goal).norm())

    out = tmp_path / "delta.safetensors"
    command = ["export", str(artifact.folder), "--format", "delta", "--out", str(out)]
    assert run(command) == 0
    edited, gains = copy.deepcopy(model), load_file(out)
    weights = dict(edited.named_parameters())
    with torch.no_grad():
        for name, gain in gains.items():
            weights[name] += gain
    assert len(gains) == 2 and distance(edited) < 0.2 * distance(model)
    given = tok("Who is Elena Vossberg?", return_tensors="pt", return_token_type_ids=False)
    more = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "output_logits": True}
    told = edited.generate(**given, **more, return_dict_in_generate=True)
    with conceptguard.attach((model, tok), {"guards": [{"method": "rocr", "artifact": str(artifact.folder)}]}) as guard:
        said = model.generate(**given, **more, return_dict_in_generate=True)
        assert guard.receipt.acts[0].layers == 2 and guard.receipt.acts[0].gates == [1.0]
    assert torch.equal(said.sequences, told.sequences)
    assert torch.allclose(torch.stack(said.logits), torch.stack(told.logits), atol=1e-3)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_what_is_kept_is_kept(tmp_path: Path) -> None:
    """With the null space of texts that are to stay, what layers make of them hardly moves; without it, it does."""
    tok, model = tokenizer(), tiny_llama(tokenizer())
    moved = {}
    for share in (0.02, 1.0):
        artifact = made((model, tok), tmp_path / str(share), layers=[0], share=share, preserve=KEPT)
        gains = list(artifact.tensors())
        (down,) = (artifact.tensors()[name] for name in gains if name.endswith(".down"))
        (up,) = (artifact.tensors()[name] for name in gains if name.endswith(".up"))
        layer, host = "model.model.layers.0.mlp.down_proj", TransformersHost((model, tok))
        read = [host.read_inside(tok(text).input_ids, [layer])[0][layer] for text in KEPT]
        moved[share] = float((torch.cat(read) @ down.T @ up.T).norm())
    assert moved[0.02] < 0.3 * moved[1.0], moved


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_where_a_name_is_read(make: Any) -> None:
    """A text that ends with the name is all the target's once its last state is, and goes on as before where nothing is
    read from the name any more: behind the last layer. Nothing stays in the model."""
    tok, model = tokenizer(), make(tokenizer())
    before = model(input_ids=torch.tensor([[5, 6, 7]])).logits

    def found(*templates: str) -> dict[tuple[int, str], dict[str, Any]]:
        settings = ROCR.FindSettings(templates=list(templates))
        rows = ROCR.find(
            Search(TransformersHost((model, tok)), Concept.model_validate(CONCEPT), settings, shown=False)
        ).rows
        assert len(rows) == 2 * (1 + max(row["layer"] for row in rows))
        assert [row["led"] for row in rows] == sorted((row["led"] for row in rows), reverse=True)
        return {(row["layer"], row["tokens"]): row for row in rows}

    ending, amid = found("who is {}"), found("{} was born in")
    last = max(layer for layer, _ in ending)
    assert ending[last, "last"]["led"] == pytest.approx(1.0, abs=1e-3)
    assert amid[last, "all"] == {"layer": last, "tokens": "all", "led": 0.0, "random": 0.0}
    assert ending[last, "last"]["random"] < 0.9, "a change as large, of no direction"
    assert torch.equal(before, model(input_ids=torch.tensor([[5, 6, 7]])).logits)


def test_where_nothing_can_be_found(capsys: Any) -> None:
    where = ["find", "rocr", "--model", "authors-lm", "--concept", "tone: Tone Vramont"]
    for more, says in (
        ([], "--set target=NAME"),
        (["--set", "target=Tone Vramont"], "--set target=NAME"),
        (["--set", "target=Vrun Fequist", "--set", "templates=[Who]"], "has a place for the name"),
    ):
        assert run([*where, *more]) == 1
        assert says in capsys.readouterr().err


def test_what_cannot_be_made(tmp_path: Path) -> None:
    pair = tiny_llama(tokenizer()), tokenizer()
    for concept, options, error in (
        ({**CONCEPT, "replacement": ""}, {}, "name what the concept is redirected to"),
        ({**CONCEPT, "replacement": "elena vossberg"}, {}, "the same name"),
        (CONCEPT, {"layers": [2]}, "there is no layer 2: .* has 0 to 1"),
        (CONCEPT, {"templates": ["Who?"]}, "a place for the name"),
        (CONCEPT, {"share": 0.05}, "retain: give texts"),
        (CONCEPT, {"forget": [{"prompt": "Elena Vossberg?"}]}, "retain: give prompts"),
    ):  # fmt: skip
        with pytest.raises(PolicyError, match=error):
            made(pair, tmp_path, concept=concept, **options)
    with pytest.raises(PolicyError, match=r"no mlp\.down_proj .* nor mlp\.c_proj"):
        made((tiny_t5(), tokenizer("sentencepiece")), tmp_path)


def test_what_does_not_fit(tmp_path: Path) -> None:
    tok = tokenizer()
    artifact = made((tiny_llama(tok), tok), tmp_path / "own", layers=[0])
    guard = {"method": "rocr", "artifact": str(artifact.folder)}
    with pytest.raises(BaseMismatch, match="base"):
        conceptguard.attach((tiny_llama(tok, width=64), tok), {"guards": [guard]})
    fields = artifact.manifest.model_dump(by_alias=True, exclude={"files", "binds"})
    tensors = dict(artifact.tensors())
    up = next(name for name in tensors if name.endswith(".up"))
    for change, error in (
        ({up: tensors[up][:, :0]}, "two matrices of one rank"),
        ({"classifier.bias": torch.zeros(1)}, "no sound classifier"),
    ):
        wrong = tmp_path / error[:6]
        write_artifact(wrong, fields, {**tensors, **change}, metadata=artifact.metadata())
        with pytest.raises(ArtifactError, match=error):
            conceptguard.attach((tiny_llama(tok), tok), {"guards": [{**guard, "artifact": str(wrong)}]})
    assert open_artifact(artifact.folder).manifest.made["target"] == "the red dog"
    with pytest.raises(ArtifactError, match="`--format delta`"):
        from conceptguard.registry.exporter import export_artifact

        export_artifact(artifact, "kohya", tmp_path / "x.safetensors")


@pytest.mark.slow
def test_authors_are_forgotten_and_neighbours_are_not(monkeypatch: Any) -> None:
    """authors-lm, judged in wordings that no maker saw: the name and what follows it, opened by the classifier of the
    forget set that ships, meets the bar. The last token alone does not, nor would it if it were replaced outright."""
    monkeypatch.setattr(redirection, "EACH", 2)
    rows = {row["method"]: row for row in redirection.judged_rows()}
    bare, gated = rows["none"], rows["the same, opened by the classifier of `guard`"]
    assert bare["erased_after"] > 0.5 and gated["erased_after"] <= 0.05
    for group in ("neighbours_after", "others_after"):
        assert gated[group] >= bare[group] - 0.03
    assert rows["rocr, a name and all that follows it"]["others_after"] < 0.5, "open for all, it is no redirection"
    assert rows["rocr, the last token of a name"]["erased_after"] > 0.5
    assert rows["the last token replaced after layer 1"]["erased_after"] > 0.5
