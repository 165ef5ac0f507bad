"""What a registry may not do behind a user's back: change what was fetched, go back, or put another's tensors in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from registry_tools import fields, make, membrane, served, uploaded
from test_registry import same

from conceptguard.cli import run
from conceptguard.errors import ArtifactError, RegistryError
from conceptguard.registry import Registry, open_artifact, rebuild_index, write_artifact
from conceptguard.registry.importer import import_artifact
from conceptguard.registry.index import read_index
from conceptguard.registry.local import LocalSource
from conceptguard.registry.places import shipped_folder
from conceptguard.registry.remote import RemoteSource
from conceptguard.registry.write import write_files

WINE, CIGARETTE = "tiny/spm/wine", "tiny/spm/cigarette"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    for number, name in enumerate(("cigarette", "wine")):
        made = make(tmp_path / "made" / name, name, number + 1, gate={"floor": 0.5, "full": 0.8})
        LocalSource(tmp_path / "mirror").add(made)
    return tmp_path / "mirror"


def test_a_cached_manifest_that_was_edited(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    with served(mirror) as (address, _):
        artifact = RemoteSource(address, cache).pull(WINE)
        path = artifact.folder / "artifact.yaml"
        path.write_text(path.read_text().replace("floor: 0.5", "floor: 0.9"))
        assert open_artifact(artifact.folder).manifest.gate == {"floor": 0.9, "full": 0.8}
        with pytest.raises(ArtifactError, match=r"artifact.yaml: altered .*conceptguard pull tiny/spm/wine"):
            RemoteSource(address, cache).load(WINE)
        (row,) = [row for row in Registry([RemoteSource(address, cache)]).verify() if row["ref"] == WINE]
        assert not row["ok"] and "altered" in row["why"]
        monkeypatch.setenv("CONCEPTGUARD_REGISTRIES", address)
        monkeypatch.setenv("CONCEPTGUARD_CACHE", str(cache))
        assert run(["verify", WINE]) == 1 and "altered" in capsys.readouterr().out
        assert run(["pull", WINE]) == 0 and run(["verify", WINE]) == 0
        assert RemoteSource(address, cache).load(WINE).manifest.gate == {"floor": 0.5, "full": 0.8}


def replaced(mirror: Path, tmp_path: Path, version: str, seed: float) -> None:
    """The registry's keeper publishes another version of wine."""
    shutil.rmtree(tmp_path / "next", ignore_errors=True)
    LocalSource(mirror).add(make(tmp_path / "next", "wine", seed, version=version))


@pytest.mark.parametrize("how", ["the whole old registry", "the old artifact, a new index", "a lower version, new"])
def test_no_way_back(tmp_path: Path, mirror: Path, how: str) -> None:
    cache, old = tmp_path / "cache", tmp_path / "old"
    shutil.copytree(mirror, old)
    with served(mirror) as (address, _):
        RemoteSource(address, cache).pull(WINE)
        replaced(mirror, tmp_path, "2", 7)
        RemoteSource(address, cache).pull(WINE)
        if how == "the whole old registry":
            (mirror / "index.json").write_bytes((old / "index.json").read_bytes())
        if how != "a lower version, new":
            shutil.rmtree(mirror / WINE)
            shutil.copytree(old / WINE, mirror / WINE)
            if how == "the old artifact, a new index":
                rebuild_index(mirror)
        else:
            replaced(mirror, tmp_path, "1.9", 0)
        for act in ("load", "pull"):
            with pytest.raises(RegistryError, match=r"older .* not used; .* delete .*\.seen\.json"):
                getattr(RemoteSource(address, cache), act)(WINE)
        if how == "the whole old registry":
            with pytest.raises(RegistryError, match="older index"):
                RemoteSource(address, cache).entries()
        else:  # others are none the worse
            assert same(RemoteSource(address, cache).load(CIGARETTE).tensors(), membrane(1))
        next(cache.glob("indexes/*.seen.json")).unlink()
        assert not same(RemoteSource(address, cache).load(WINE).tensors(), membrane(7))


def test_the_way_on_is_open(tmp_path: Path, mirror: Path) -> None:
    cache = tmp_path / "cache"
    with served(mirror) as (address, _):
        for number, version in enumerate(["1", "2", "2", "10", "nightly"]):
            replaced(mirror, tmp_path, version, 10 + number)
            for _ in range(2):
                artifact = RemoteSource(address, cache).load(WINE)
                assert artifact.manifest.version == version and same(artifact.tensors(), membrane(10 + number))
        (mirror / "index.json").unlink()
        rebuild_index(mirror)
        RemoteSource(address, cache).load(WINE)


def test_a_damaged_memory_is_no_licence(tmp_path: Path, mirror: Path) -> None:
    source = RemoteSource(uploaded(mirror), tmp_path / "cache")
    source.pull(WINE)
    memory = next(tmp_path.glob("cache/indexes/*.seen.json"))
    memory.write_text('{"pulled": {"tiny/spm/wine": 3}}')
    with pytest.raises(RegistryError, match="damaged"):
        source.load(WINE)


def test_serials_grow_and_stay_where_nothing_changed(tmp_path: Path, mirror: Path) -> None:
    before = (mirror / "index.json").read_bytes()
    rebuild_index(mirror)
    assert (mirror / "index.json").read_bytes() == before
    replaced(mirror, tmp_path, "2", 1)
    after = (mirror / "index.json").read_bytes()
    assert read_index(after, "").serial > read_index(before, "").serial > 1_700_000_000
    for serial in ("-1", '"1"', "1.5", "true"):
        with pytest.raises(RegistryError, match="serial"):
            read_index(before.replace(b'"serial": ', f'"serial": {serial}, "x": '.encode()), "")


def swapped(mirror: Path, how: str) -> None:
    """Wine's manifest gets the tensors of the cigarette."""
    wine, cigarette = open_artifact(mirror / WINE), open_artifact(mirror / CIGARETTE)
    stolen = cigarette.path("cigarette.safetensors").read_bytes()
    said = wine.manifest.model_dump(by_alias=True)
    if how == "files alone":
        (mirror / WINE / "cigarette.safetensors").write_bytes(stolen)
        said["files"] = cigarette.manifest.model_dump()["files"]
        from conceptguard.files import yaml

        (mirror / WINE / "artifact.yaml").write_text(yaml.dump(said))
    else:
        del said["files"]
        write_files(mirror / WINE, said, {"wine.safetensors": stolen})


@pytest.mark.parametrize("how", ["files alone", "bound anew"])
def test_tensors_of_another_concept(tmp_path: Path, mirror: Path, how: str) -> None:
    swapped(mirror, how)
    if how == "files alone":
        with pytest.raises(RegistryError, match="`binds` does not fit"):
            rebuild_index(mirror)
        index = json.loads((mirror / "index.json").read_bytes())
        data = (mirror / WINE / "artifact.yaml").read_bytes()
        import hashlib

        size = open_artifact(mirror / CIGARETTE).size
        index["entries"][1] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes_manifest": len(data), "size": size}
        (mirror / "index.json").write_text(json.dumps(index))
    else:
        rebuild_index(mirror)
    with served(mirror) as (address, _):
        for _ in range(2):
            with pytest.raises(ArtifactError, match=r"`binds` does not fit|made for 'tiny/spm/cigarette', not for"):
                RemoteSource(address, tmp_path / "cache").load(WINE).tensors()
    rows = {row["ref"]: row for row in Registry([mirror]).verify()}
    assert rows[CIGARETTE]["ok"] and not rows[WINE]["ok"]


def test_membranes_from_before_say_what_they_erase(tmp_path: Path) -> None:
    """The shipped ones are bound by nothing newer than SPM's own metadata."""
    shutil.copytree(shipped_folder() / "emoji-sd" / "spm", tmp_path / "emoji-sd" / "spm")
    for name, other in (("wine", "pistol"), ("key", "camera")):
        folder = tmp_path / "emoji-sd" / "spm" / name
        said = open_artifact(folder).manifest.model_dump(by_alias=True, exclude={"files"})
        assert open_artifact(folder).tensors()
        stolen = (tmp_path / "emoji-sd" / "spm" / other / f"{other}_last.safetensors").read_bytes()
        write_files(folder, said, {f"{name}_last.safetensors": stolen})
        with pytest.raises(ArtifactError, match="made for"):
            open_artifact(folder).tensors()


def test_an_exported_file_may_be_imported_under_another_name(tmp_path: Path) -> None:
    made = make(tmp_path / "a", seed=4)
    again: Any = import_artifact(
        made.path("cigarette.safetensors"), "spm", tmp_path / "r", base="tiny", concept="smoking", prompts=["smoking"]
    )
    assert again.ref == "tiny/spm/smoking" and same(again.tensors(), membrane(4))
    assert LocalSource(tmp_path / "other").add(again).verify()


def test_without_tensors_there_is_nothing_to_bind_but_the_reference(tmp_path: Path) -> None:
    made = write_artifact(tmp_path / "a", fields(), {})
    assert made.manifest.binds == open_artifact(tmp_path / "a").manifest.binds != ""
    path = tmp_path / "a" / "artifact.yaml"
    path.write_text(path.read_text().replace("name: cigarette\nversion", "name: wine\nversion"))
    with pytest.raises(ArtifactError, match="binds"):
        open_artifact(tmp_path / "a")
