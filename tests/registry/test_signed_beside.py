"""Policies, suites and models are signed with the artifacts: their readers take what was signed, file by file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from signed_tools import Clock, Keeper

import conceptguard
from conceptguard.cli import run
from conceptguard.errors import ConceptGuardError, PolicyError, RegistryError
from conceptguard.hosts.load import load_model
from conceptguard.measuring.judges import load_judge
from conceptguard.measuring.language.suite import load_language_suite
from conceptguard.measuring.suite import load_suite
from conceptguard.registry import Registry, default_registry, shipped_folder
from conceptguard.registry.local import LocalSource
from conceptguard.registry.signed import publish, roots

READERS: dict[str, tuple[Callable[[], Any], str]] = {
    "policy": (lambda: conceptguard.load_policy("school"), "policies/school.yaml"),
    "language suite": (lambda: load_language_suite("authors-lm"), "suites/authors-lm/world.yaml"),
    "judge": (lambda: load_judge("emoji-sd"), "models/emoji-judge/config.json"),
    "model": (lambda: default_registry().model("authors-lm"), "models/authors-lm/tokenizer_config.json"),
}


@pytest.fixture
def shipped(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what ships, in its place, without artifacts."""
    folder, origin = tmp_path / "shipped", shipped_folder()
    for part in ("metadata", "policies", "suites", "models/emoji-judge", "models/authors-lm"):
        shutil.copytree(origin / part, folder / part)
    for user in (
        "registry",
        "registry.client",
        "registry.signed.beside",
        "measuring.suite",
        "measuring.language.suite",
    ):
        monkeypatch.setattr(f"conceptguard.{user}.shipped_folder", lambda: folder)
    return folder


def changed(path: Path) -> None:
    """One byte is another, at the same size and, as far as the clock of the file says, since long ago."""
    before, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("kind", READERS)
def test_what_ships_is_read_as_it_was_signed_or_not_at_all(shipped: Path, kind: str) -> None:
    read, place = READERS[kind]
    path = shipped / place
    assert read() is not None, "as it was signed"
    data = path.read_bytes()
    changed(path)
    with pytest.raises(ConceptGuardError, match=f"{place}: is not what it was when conceptguard signed"):
        read()
    path.write_bytes(data)
    assert read() is not None, "put back"


def test_a_suite_of_pictures_is_read_as_it_was_signed_or_not_at_all(shipped: Path) -> None:
    assert load_suite("emoji-sd").base == "emoji-sd"
    place = shipped / "suites" / "emoji-sd.yaml"
    changed(place if place.is_file() else place.with_suffix("") / "judging.yaml")
    with pytest.raises(RegistryError, match=r"suites/emoji-sd.*: is not what it was when conceptguard signed"):
        load_suite("emoji-sd")


@pytest.mark.parametrize("kind", ["language suite", "judge", "model"])
def test_a_folder_is_signed_whole(shipped: Path, kind: str) -> None:
    """What was taken out or put in changes what a library makes of the rest."""
    read, place = READERS[kind]
    more = (shipped / place).with_name("adapter_config.json")
    more.write_text("{}")
    with pytest.raises(RegistryError, match=r"adapter_config.json: is none of the files when conceptguard signed"):
        read()
    more.unlink()
    more.symlink_to(shipped / "policies")
    with pytest.raises(RegistryError, match=r"adapter_config.json: is none of the files"):
        read()
    more.unlink()
    gone = next(path for path in (shipped / place).parent.iterdir() if path.name in ("README.md", "world.yaml"))
    gone.unlink()
    with pytest.raises(RegistryError, match=f"{gone.name}: is missing when conceptguard signed"):
        read()


def test_a_policy_that_nobody_signed(shipped: Path) -> None:
    """Among those that ship it is refused by its name; by its path it is whoever's it is."""
    mine = shipped / "policies" / "mine.yaml"
    shutil.copy(shipped / "policies" / "school.yaml", mine)
    with pytest.raises(PolicyError, match=r"mine.yaml: conceptguard did not sign it .*if it is yours, give its path"):
        conceptguard.load_policy("mine")
    assert conceptguard.load_policy(mine).name == "school"
    with pytest.raises(PolicyError, match="no policy file or shipped policy 'minne': did you mean 'mine'"):
        conceptguard.load_policy("minne")


def test_a_policy_that_would_not_load_leaves_the_others_in_the_list(
    shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(shipped / "policies" / "school.yaml", shipped / "policies" / "mine.yaml")
    changed(shipped / "policies" / "demo.yaml")
    assert run(["policies", "--json", "-"]) == 1
    out, err = capsys.readouterr()
    told = json.loads(out)
    why = {row["policy"]: row["why"] for row in told["rows"] if row["why"]}
    assert sorted(why) == ["demo", "mine"] and told["failed"] == 2
    assert "did not sign it" in why["mine"] and "is not what it was" in why["demo"]
    assert "mine would not load" in err and "mine.yaml" in err
    assert {row["guards"] for row in told["rows"] if row["policy"] == "school"} == {10}


def test_signatures_that_are_no_good(shipped: Path) -> None:
    path = shipped / "metadata" / "targets.json"
    path.write_bytes(path.read_bytes().replace(b"policies/school.yaml", b"policies/scholl.yaml"))
    for read, _ in READERS.values():
        with pytest.raises(ConceptGuardError, match=r"not signed by enough of the keys|does not belong together"):
            read()


def test_nothing_is_taken_in_the_place_of_an_altered_model(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a folder of its name either, which a name that nobody knows is taken for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "authors-lm").mkdir()
    changed(shipped / "models" / "authors-lm" / "model.safetensors")
    with pytest.raises(RegistryError, match=r"authors-lm/model.safetensors: is not what it was"):
        load_model("authors-lm")


def test_verify_says_by_whom(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry([LocalSource(shipped, writable=False, name="shipped", packaged=True)])

    def rows() -> dict[str, Any]:
        return {row["ref"]: row for row in registry.verify()}

    read = rows()
    assert read["models/authors-lm"]["files"] == 6 and read["policies/school.yaml"]["signed"] == "conceptguard"
    gone = read["models/emoji-sd"]
    assert not gone["ok"] and "is missing" in gone["why"], "signed, and not in this copy"
    changed(shipped / "policies" / "school.yaml")
    assert [ref for ref, row in rows().items() if row["ok"] != read[ref]["ok"]] == ["policies/school.yaml"]
    assert run(["verify", "suites/authors-lm"]) == 0 and "conceptguard" in capsys.readouterr().out
    assert run(["verify", "policies/school.yaml"]) == 1 and "is not what it was" in capsys.readouterr().out
    assert run(["verify", "policies/none.yaml"]) == 1 and "no policies/none.yaml in any" in capsys.readouterr().err


def test_everything_beside_the_artifacts_that_ship_is_signed() -> None:
    rows = [row for row in default_registry().verify() if row["ref"].count("/") == 1]
    assert {row["ref"].split("/")[0] for row in rows} == {"models", "policies", "suites"}
    wrong = [row["why"] for row in rows if not row["ok"]]
    assert not wrong, "sign it anew: python -m conceptguard_registry.build.sign (CONTRIBUTING.md, Keys)"


@pytest.mark.parametrize("bins", [0, 4])
def test_models_of_a_folder_of_ones_own(tmp_path: Path, clock: Clock, bins: int) -> None:
    """Unsigned as before; trusted, as they were signed, however the artifacts' signatures are spread."""
    keeper = Keeper(tmp_path, bins=bins)
    model = keeper.folder / "models" / "tiny"
    model.mkdir(parents=True)
    (model / "model_index.json").write_text("{}")
    registry = Registry([keeper.folder])
    assert registry.model("tiny") == model
    roots.trust(keeper.folder, keeper.root)
    assert registry.model("tiny") == model, "came after the rest was signed: unsigned"
    keeper.sign()
    assert registry.model("tiny") == model
    (model / "model_index.json").write_text("[]")
    with pytest.raises(RegistryError, match=r"model_index.json: is not what it was when Ann signed models/tiny"):
        registry.model("tiny")
    assert {row["ref"]: row["ok"] for row in registry.verify()}["models/tiny"] is False
    roots.distrust(keeper.folder)
    assert registry.model("tiny") == model and "models/tiny" not in {row["ref"] for row in registry.verify()}


def test_signing_goes_by_what_is_there(tmp_path: Path, clock: Clock) -> None:
    keeper = Keeper(tmp_path)
    folder = keeper.folder / "suites" / "own"
    folder.mkdir(parents=True)
    for name in ("one.yaml", ".one.yaml.swp"):
        (folder / name).write_text("base: own\n")
    roots.trust(keeper.folder, keeper.root)
    keeper.sign()

    def signed() -> tuple[str, ...]:
        view = LocalSource(keeper.folder).view()
        assert view is not None
        return view.beside

    assert signed() == ("suites/own/one.yaml",)
    shutil.rmtree(folder)
    publish.sign(keeper.folder, [keeper.keys])
    assert signed() == ()
