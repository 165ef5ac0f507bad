"""Two artifacts of one method and name, for two families: a short name is the one for the model that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import reported

import conceptguard
from conceptguard.errors import RegistryError
from conceptguard.measuring.policies import cases_of, in_full
from conceptguard.measuring.suite import load_suite
from conceptguard.policy_file import load_policy
from conceptguard.registry import default_registry

PISTOL = {"name": "pistol", "prompts": ["pistol", "gun"]}
POLICY = {"name": "no pistols", "guards": [{"method": "uce", "artifact": "uce/pistol"}]}
BOTH = (
    r"fits several artifacts: emoji-flow/uce/pistol, emoji-sd/uce/pistol|fits several artifacts: emoji-sd.*emoji-flow"
)


@pytest.fixture(scope="module")
def flow() -> Any:
    made = conceptguard.load_model("emoji-flow")
    made.set_progress_bar_config(disable=True)
    return made


def test_a_session_takes_the_one_for_its_model(pipe: Any, flow: Any) -> None:
    for model, family in ((pipe, "emoji-sd"), (flow, "emoji-flow")):
        with conceptguard.attach(model, POLICY) as session:
            assert session.methods[0].artifact.ref == f"{family}/uce/pistol"


def test_what_ships_for_emoji_flow_is_signed_and_acts(flow: Any) -> None:
    def draw() -> torch.Tensor:
        random = torch.Generator().manual_seed(0)
        return torch.as_tensor(flow("a pistol", num_inference_steps=2, generator=random, output_type="latent").images)

    bare, shipped = draw(), [entry for entry in default_registry().entries() if entry.base == "emoji-flow"]
    assert {"uce", "spm", "esd"} <= {entry.method for entry in shipped}
    for entry in shipped:
        policy = {
            "trust": "signed",
            "guards": [{"method": entry.method, "artifact": f"{entry.method}/{entry.concept}"}],
        }
        with conceptguard.attach(flow, policy) as session:
            assert session.methods[0].artifact.ref == entry.ref and not torch.equal(draw(), bare)


def test_a_fine_tuned_sibling_takes_the_one_for_its_architecture(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(flow), "name_or_path", "my-own")
    with conceptguard.attach(flow, POLICY) as session:
        assert session.methods[0].artifact.ref == "emoji-flow/uce/pistol"


def test_without_a_model_both_are_named() -> None:
    registry = default_registry()
    for ask in (registry.find, registry.load, lambda ref: registry.find(ref, ["another-family"])):
        with pytest.raises(RegistryError, match=BOTH):
            ask("uce/pistol")
    assert registry.find("uce/pistol", ["another-family", "emoji-flow", "emoji-sd"]).base == "emoji-flow"
    assert registry.find("spm/beer").ref == "emoji-sd/spm/beer"  # there is one


def test_what_is_judged_is_the_suites() -> None:
    rules, suite = load_policy(POLICY), load_suite("emoji-flow")
    (one,) = cases_of(suite, [rules], 1, 0)
    assert one.concepts == ["pistol"] and one.policy.guards[0].artifact == "emoji-flow/uce/pistol"
    plain = load_policy(
        {"guards": [{"method": "spm", "artifact": "spm/beer"}, {"method": "normalise", "concept": PISTOL}]}
    )
    assert in_full(plain, "emoji-flow").guards == plain.guards


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("guards: [{method: uce, artifact: uce/pistol}]\n")
    asked = ("policy", "check", rules)
    for model, ref in (("emoji-flow", "emoji-flow/uce/pistol"), ("emoji-sd", "emoji-sd/uce/pistol")):
        (row,) = reported(capsys, *asked, "--model", model)["rows"]
        assert row["ok"] and row["artifact"] == ref
    (row,) = reported(capsys, *asked, status=1)["rows"]
    assert "emoji-flow/uce/pistol" in row["why"] and "emoji-sd/uce/pistol" in row["why"]
    made = reported(capsys, "generate", "--model", "emoji-flow", "--guard", "uce:pistol", "--prompt",
                    "a pistol, noto style", "--steps", 1, "--out", tmp_path / "pistol.png")  # fmt: skip
    (act,) = made["receipt"]["acts"]
    assert act["guard"] == "uce uce/pistol" and max(act["gates"]) == 1.0
