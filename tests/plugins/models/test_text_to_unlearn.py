"""A generator that forgets what a text says, and what judges it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT

from conceptguard import PolicyError, attach, host_for, load_model
from conceptguard.cli import run
from conceptguard.measuring.gan.run import Bench
from conceptguard.plugins import method
from conceptguard.policy_file import load_policy

FOLDER = ROOT / "registry" / "models" / "emoji-gan"
CONCEPT = "wine"


@pytest.fixture(scope="module")
def bench() -> Any:
    return Bench(load_model(str(FOLDER)))


def made(net: Any, name: str, out: Path, **options: Any) -> Any:
    about = {"name": name, "prompts": [name]}
    return method("text_to_unlearn").make(host_for(net), about, out, progress=False, **options)


@pytest.fixture(scope="module")
def artifact(bench: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return made(bench.net, CONCEPT, tmp_path_factory.mktemp("made"))


def policy(artifact: Any) -> dict[str, Any]:
    return {"name": "dry", "guards": [{"method": "text_to_unlearn", "artifact": str(artifact.folder)}]}


@pytest.mark.slow
def test_what_a_text_says_is_gone_and_the_rest_stays(bench: Any, artifact: Any) -> None:
    row = bench.guarded(load_policy(policy(artifact)), CONCEPT)
    assert row["erased_before"] > 0.6 and row["passes"], row
    assert row["second_erased_after"] < 0.2, "a judge of another kind says the same"
    assert row["degree"] > 0.4 and row["shift"] < -0.4
    assert artifact.manifest.made["objects"] == [bench.places[CONCEPT]], "found by the text alone"


def test_controls_do_nothing_or_take_the_name_alone(bench: Any) -> None:
    none, renamed, noise = bench.controls(CONCEPT)
    assert none["degree"] == 0 and none["erased_after"] == none["erased_before"] and not none["passes"]
    assert renamed["erased_after"] < 0.1 and renamed["edited_after"] == none["edited_before"]
    assert noise["erased_after"] > 0.5 and not noise["passes"]


@pytest.mark.slow
def test_it_acts_and_is_gone_to_the_last_bit(bench: Any, artifact: Any) -> None:
    net = bench.net
    given = net.asked([bench.places[CONCEPT]], 1, torch.Generator().manual_seed(3))
    before = net(*given)
    with attach(net, policy(artifact)) as guard:
        assert not torch.equal(net(*given), before)
        assert guard.receipt.acts[0].layers == 6
    assert torch.equal(net(*given), before)


def test_bad_input_is_told(bench: Any, tmp_path: Path) -> None:
    with pytest.raises(
        PolicyError, match="nothing that the generator draws is what emoji-encoder takes for 'umbrella'"
    ):
        made(bench.net, "umbrella", tmp_path)
    with pytest.raises(PolicyError, match="no generator that makes codes pictures"):
        made(torch.nn.Sequential(torch.nn.Linear(2, 2)).eval(), CONCEPT, tmp_path)
    bench.net.train()
    try:
        with pytest.raises(PolicyError, match="training mode"):
            made(bench.net, CONCEPT, tmp_path)
    finally:
        bench.net.eval()


@pytest.mark.slow
def test_the_command(tmp_path: Path, artifact: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out, guard = tmp_path / "rows.json", f"text_to_unlearn:{artifact.folder}"
    asked = ["eval", "--suite", "gan", "--model", str(FOLDER), "--concepts", CONCEPT]
    assert run([*asked, "--guard", guard, "--json", str(out), "--check"]) == 0
    assert [row["method"] for row in json.loads(out.read_text())["rows"]][:3] == ["none", "renamed", "noise"]
    assert run([*asked[:-1], "zebra"]) == 1
    assert "the generator has no 'zebra': it draws" in capsys.readouterr().err
