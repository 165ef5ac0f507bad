"""A net over a graph that forgets edges, and what judges it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT

pytest.importorskip("torch_geometric")

from conceptguard import PolicyError, RegistryError, attach, host_for, load_model
from conceptguard.cli import run
from conceptguard.making.links import others
from conceptguard.measuring.graph.run import Bench
from conceptguard.plugins import method
from conceptguard.testing import ModuleCase, check_contract

FOLDER = ROOT / "registry" / "models" / "emoji-graph"


@pytest.fixture(scope="module")
def bench() -> Any:
    return Bench(load_model(str(FOLDER)))


def made(bench: Any, prompts: list[str], out: Path, **options: Any) -> Any:
    about = {"name": prompts[0], "prompts": prompts}
    return method("d2dgn").make(host_for(bench.net), about, out, progress=False, **options)


def test_the_model_is_what_it_says(bench: Any) -> None:
    net = bench.net
    assert bench.auc_of(net, bench.test) > 0.85, "edges that nobody trained on"
    assert not (set(map(tuple, bench.test.tolist())) & set(map(tuple, net.edges.tolist())))
    pairs = torch.tensor([[net.emoji.index("🍷"), net.keywords.index(word)] for word in ("drink", "animal")])
    wine, other = net(pairs).tolist()
    assert wine > 0 > other


def test_what_is_no_edge_is_never_one() -> None:
    edges = torch.tensor([[0, 0], [0, 1], [1, 1]])
    found = others(edges.repeat(50, 1), edges, 3, torch.Generator().manual_seed(0))
    assert not (set(map(tuple, found.tolist())) & set(map(tuple, edges.tolist())))
    assert torch.equal(found[:, 1], edges.repeat(50, 1)[:, 1])


def test_a_keyword_is_forgotten_and_the_rest_is_kept(bench: Any, tmp_path: Path) -> None:
    bench.sets["sports"] = ["sports"]  # no setting was chosen on it
    row = bench.made("d2dgn", "sports", tmp_path, {})
    assert row["passes"], row
    assert row["edges"] > 50 and row["ratio"] > 0 and row["bytes"] > 0


def test_controls_miss_the_bar(bench: Any) -> None:
    retrained, none, deny = bench.controls("animal")
    assert none["deleted"] > 0.85 and not none["passes"], "an edge taken out of the graph alone is known still"
    assert deny["deleted"] < 0.3 and not deny["passes"], "what is denied is known for having been removed"
    assert 0.3 < retrained["deleted"] < 0.7 and abs(retrained["kept"] - retrained["before"]) < 0.03


def test_an_untrained_teacher_lets_deleted_edges_stand_out(bench: Any, tmp_path: Path) -> None:
    assert bench.made("d2dgn", "animal", tmp_path, {"teacher": "untrained", "steps": 60})["deleted"] > 0.8


def test_it_keeps_the_contract(bench: Any, tmp_path: Path) -> None:
    artifact = made(bench, ["animal"], tmp_path, steps=4)
    guard = {"method": "d2dgn", "artifact": str(artifact.folder)}
    results = check_contract(ModuleCase(guard, lambda: bench.net, bench.net.edges[:6]))
    assert "kept" in set(results.values()) and not {"broken"} & set(results.values()), results


def test_bad_input_changes_nothing(bench: Any, tmp_path: Path) -> None:
    net = bench.net
    before = {name: one.clone() for name, one in net.state_dict().items()}
    for prompts, words in (
        (["zeppelin"], "the graph has no 'zeppelin'"), (["🍷/animal"], "the graph has no edge '🍷/animal'"),
        (list(net.keywords), "the forget set is everything"),
    ):  # fmt: skip
        with pytest.raises(PolicyError, match=words):
            made(bench, prompts, tmp_path)
    net.train()
    try:
        with pytest.raises(PolicyError, match="training mode"):
            made(bench, ["animal"], tmp_path)
    finally:
        net.eval()
    with pytest.raises(PolicyError, match="predicts no links"):
        plain = torch.nn.Sequential(torch.nn.Linear(2, 2)).eval()
        method("d2dgn").make(host_for(plain), {"name": "animal", "prompts": ["animal"]}, tmp_path, progress=False)
    assert all(torch.equal(before[name], one) for name, one in net.state_dict().items())


def test_nets_without_plain_layers_are_told_apart(bench: Any) -> None:
    from torch_geometric.nn import GCNConv

    one, other = (torch.nn.Sequential(GCNConv(4, width)) for width in (4, 5))
    assert host_for(one).fingerprint() == host_for(torch.nn.Sequential(GCNConv(4, 4))).fingerprint()
    assert host_for(one).fingerprint() != host_for(other).fingerprint()


def test_a_damaged_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_bytes((FOLDER / "graph.json").read_bytes())
    with pytest.raises(RegistryError, match="pull it again"):
        load_model(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes((FOLDER / "model.safetensors").read_bytes())
    said = json.loads((FOLDER / "graph.json").read_text(encoding="utf-8"))
    (tmp_path / "graph.json").write_text(json.dumps({**said, "keywords": said["keywords"][:5]}))
    with pytest.raises(RegistryError, match="not the weights of this net"):
        load_model(str(tmp_path))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.json"
    asked = ["eval", "--suite", "graph", "--model", str(FOLDER), "--concepts", "drinks", "--method", "d2dgn"]
    assert run([*asked, "--set", "steps=2", "--json", str(out), "--check"]) == 1
    assert [row["method"] for row in json.loads(out.read_text())["rows"]] == ["retrained", "none", "deny", "d2dgn"]
    assert run([*asked, "--concepts", "cat"]) == 1
    assert "no forget set 'cat' is judged: there are drinks" in capsys.readouterr().err
    drawn = ["--policy", "none", "--prompt", "a cat", "--out", str(tmp_path / "a.png")]
    assert run(["generate", "--model", str(FOLDER), *drawn]) == 1
    assert "--suite graph" in capsys.readouterr().err


def test_without_a_policy_it_is_again_what_it_was(bench: Any, tmp_path: Path) -> None:
    artifact, net = made(bench, ["🍷/drink"], tmp_path, steps=4), bench.net
    pairs = net.edges[:20]
    before = net(pairs)
    with attach(net, {"name": "dry", "guards": [{"method": "d2dgn", "artifact": str(artifact.folder)}]}) as guard:
        assert not torch.equal(net(pairs), before) and guard.receipt.acts[0].layers == 1
    assert torch.equal(net(pairs), before)
