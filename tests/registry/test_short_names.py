"""Two artifacts of one method and name, for two families: a short name is the one for the model that is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import reported

import conceptguard
from conceptguard import plugins
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


@pytest.fixture(scope="module", autouse=True)
def another(flow: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """emoji-sd/uce/pistol ships; here is one for emoji-flow as well."""
    out = tmp_path_factory.mktemp("registry")
    made = plugins.method("uce").make(plugins.host_for(flow), PISTOL, out, progress=False, preserve=["dog"])
    default_registry().add(made, out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCEPTGUARD_REGISTRIES", str(out))
        yield


def test_a_session_takes_the_one_for_its_model(pipe: Any, flow: Any) -> None:
    for model, family in ((pipe, "emoji-sd"), (flow, "emoji-flow")):
        with conceptguard.attach(model, POLICY) as session:
            assert session.methods[0].artifact.ref == f"{family}/uce/pistol"


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
    assert registry.find("spm/pistol").ref == "emoji-sd/spm/pistol"  # there is one


def test_what_is_judged_is_the_suites() -> None:
    rules, suite = load_policy(POLICY), load_suite("emoji-flow")
    (one,) = cases_of(suite, [rules], 1, 0)
    assert one.concepts == ["pistol"] and one.policy.guards[0].artifact == "emoji-flow/uce/pistol"
    plain = load_policy(
        {"guards": [{"method": "spm", "artifact": "spm/pistol"}, {"method": "normalise", "concept": PISTOL}]}
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
