"""What signatures mean to whoever generates and to whoever signs on the command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import reported, said
from random_artifacts import membrane
from registry_tools import make
from signed_tools import CIGARETTE, WINE, Clock, Keeper, Mirror, mirrored

import conceptguard
from conceptguard.errors import ArtifactError
from conceptguard.policy import together
from conceptguard.policy_file import load_policy
from conceptguard.registry import Registry, open_artifact
from conceptguard.registry.local import LocalSource
from conceptguard.registry.signed import change, publish, roots


@pytest.fixture
def mine(tiny: Any, tmp_path: Path, clock: Clock) -> tuple[Path, str]:
    """The user's own registry with one membrane for the tiny pipeline, and its reference."""
    folder = tmp_path / "home"
    made = open_artifact(membrane(tmp_path / "made", tiny)["artifact"])
    return folder, LocalSource(folder).add(made).ref


def test_a_policy_that_takes_signed_artifacts_only(tiny: Any, mine: tuple[Path, str], tmp_path: Path) -> None:
    folder, ref = mine
    policy = {"name": "own", "guards": [{"method": "spm", "artifact": ref}]}
    with conceptguard.attach(tiny, policy) as guard:
        tiny("a cigarette", num_inference_steps=1, output_type="latent")
        assert guard.receipt.acts[0].signed == "unsigned" and f"  unsigned: spm {ref}" in str(guard.receipt)
    strict = {**policy, "trust": "signed"}
    with pytest.raises(ArtifactError, match=rf"{ref}: unsigned, and the policy has `trust: signed`"):
        conceptguard.attach(tiny, strict)
    publish.init(folder, tmp_path / "keys", owner="Ann")
    roots.trust(folder, (folder / "metadata" / "1.root.json").read_bytes())
    with conceptguard.attach(tiny, strict) as guard:
        tiny("a cigarette", num_inference_steps=1, output_type="latent")
        assert guard.receipt.acts[0].signed == "Ann" and "unsigned" not in str(guard.receipt)
        assert guard.receipt.to_dict()["acts"][0]["signed"] == "Ann"
    change.revoke(folder, ref, [tmp_path / "keys"], reason="it comes back", successor="tiny/spm/other")
    for one in (policy, strict):
        with pytest.raises(ArtifactError, match=r"revoked \(it comes back\), says Ann .*: use tiny/spm/other instead"):
            conceptguard.attach(tiny, one)


def test_the_stricter_of_two_policies() -> None:
    one, two = load_policy({"guards": []}), load_policy({"guards": [], "trust": "signed"})
    assert one.trust == "any" and together(one, two).trust == together(two, one).trust == "signed"


def test_sign_trust_and_revoke_on_the_command_line(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONCEPTGUARD_KEYS", str(tmp_path / "keys"))
    folder = tmp_path / "registry"
    for number, name in enumerate(("cigarette", "wine")):
        LocalSource(folder).add(make(tmp_path / name, name, number))
    told, _ = said(capsys, "registry", "init", folder, "--owner", "Ann", "--days", "timestamp=7")
    assert "2 artifacts signed" in told and "timestamp 2026-12-08" in told
    fingerprint = told.split("fingerprint ")[1].strip()
    with mirrored(Mirror(folder)) as mirror:
        monkeypatch.setenv("CONCEPTGUARD_REGISTRIES", mirror.address)
        rows = reported(capsys, "list", "--base", "tiny")["rows"]
        assert {row["signed"] for row in rows} == {"unsigned"}
        _, err = said(capsys, "registry", "trust", mirror.address, "--fingerprint", "0" * 64, status=1)
        assert fingerprint in err and "not trusted" in err
        assert said(capsys, "registry", "rotate", folder, "targets", "--owner", "Bea")
        (row,) = reported(capsys, "registry", "trust", mirror.address, "--fingerprint", fingerprint)["rows"]
        assert row["version"] == 1 and row["root"].startswith("2 of Ann (root 1)")
        assert reported(capsys, "registry", "trust")["rows"] == [
            {"address": mirror.address, "fingerprint": fingerprint}
        ]
        assert {row["signed"] for row in reported(capsys, "list", "--base", "tiny")["rows"]} == {"Bea"}
        said(capsys, "pull", WINE)
        (row,) = reported(capsys, "verify", WINE)["rows"]
        assert row["ok"] and row["signed"] == "Bea"
        said(capsys, "registry", "revoke", folder, WINE, "--reason", "weak", "--successor", CIGARETTE)
        _, err = said(capsys, "pull", WINE, status=1)
        assert "revoked (weak), says Bea" in err and f"use {CIGARETTE} instead" in err
        assert any("revoked (weak)" in row["signed"] for row in reported(capsys, "list", "--concept", "wine")["rows"])
        (row,) = reported(capsys, "sign", folder)["rows"]
        assert row["changed"] == ["timestamp"] and row["artifacts"] == 2
        said(capsys, "registry", "distrust", mirror.address)
        assert said(capsys, "pull", WINE)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("sign", "FOLDER"), "begin with `conceptguard registry init"),
        (("registry", "init", "nowhere"), "no such folder"),
        (("registry", "init", "FOLDER", "--root-threshold", "4"), "a threshold is at least 1"),
        (("registry", "init", "FOLDER", "--bins", "5"), "a power of two"),
        (("registry", "init", "FOLDER", "--days", "week=7"), "give days"),
        (("registry", "trust", "FOLDER"), "nobody signed it"),
        (("registry", "distrust", "FOLDER"), "no root of it is trusted; trusted are: none"),
        (("registry", "rotate", "FOLDER", "targets", "--sigstore", "ann@example.org"), "conceptguard[sigstore]"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    words: tuple[str, ...], says: str, tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    LocalSource(tmp_path / "r").add(make(tmp_path / "a"))
    given = [str(tmp_path / "r") if word == "FOLDER" else word for word in words]
    keys = ["--keys", str(tmp_path / "keys")] if words[:2] == ("registry", "init") else []
    out, err = said(capsys, *given, *keys, status=1)
    assert says in err and err.count("\n") == 1 and not out


def test_what_waits_for_others_is_said(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    keeper = Keeper(tmp_path, targets_keys=2, targets_threshold=2)
    (keeper.keys / "targets-2.pem").unlink()
    keeper.add("gin", 3)
    told, _ = said(capsys, "sign", keeper.folder, "--keys", keeper.keys)
    assert "waits for Ann (targets 2): the same command where those keys are" in told


def test_a_registry_that_does_not_verify_is_listed_as_unsigned(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    keeper = Keeper(tmp_path)
    roots.trust(keeper.folder, keeper.root)
    shutil.rmtree(keeper.folder / "metadata")
    registry = Registry([keeper.folder])
    assert {registry.standing(entry) for entry in registry.entries()} == {"unsigned"}
    assert capsys.readouterr().err.count("called unsigned") == 1
