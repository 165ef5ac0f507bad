"""Remote registries: fetched once, checked, kept, and usable when nobody answers any more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from registry_tools import make, membrane, served, uploaded
from test_registry import same

from conceptguard.errors import ArtifactError, ConceptGuardError, RegistryError
from conceptguard.registry import Registry
from conceptguard.registry.local import LocalSource
from conceptguard.registry.remote import RemoteSource


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A registry folder with two artifacts, to be served."""
    for number, name in enumerate(("cigarette", "wine")):
        LocalSource(tmp_path / "mirror").add(make(tmp_path / "made" / name, name, number))
    return tmp_path / "mirror"


def test_pull_once_then_offline(tmp_path: Path, mirror: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "cache"
    with served(mirror) as (address, asked):
        registry = Registry([RemoteSource(address, cache)])
        assert [entry.ref for entry in registry.entries()] == ["tiny/spm/cigarette", "tiny/spm/wine"]
        assert not (cache / "blobs").exists(), "listing fetches no artifact"
        assert [row["why"] for row in registry.verify()] == ["not pulled yet"] * 2
        assert same(registry.pull("wine").tensors(), membrane(1))
        before = len(asked)
        assert same(registry.load("wine").tensors(), membrane(1)) and len(asked) == before
    again = Registry([RemoteSource(address, cache)])
    assert same(again.load("tiny/spm/wine").tensors(), membrane(1))
    assert "using the index kept" in capsys.readouterr().err
    with pytest.raises(RegistryError):
        again.load("cigarette")
    assert {row["ref"]: row["why"] for row in again.verify()}["tiny/spm/wine"] == ""


def test_nothing_kept_and_nobody_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served(tmp_path) as (address, _):
        pass
    source = RemoteSource(address, tmp_path / "cache")
    with pytest.raises(RegistryError, match="cannot be used offline"):
        source.entries()
    assert Registry([source]).entries() == [] and "left out" in capsys.readouterr().err


def test_offline_by_wish(tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(mirror) as (address, asked):
        RemoteSource(address, tmp_path / "cache").load("tiny/spm/wine")
        before = len(asked)
        monkeypatch.setenv("CONCEPTGUARD_OFFLINE", "1")
        RemoteSource(address, tmp_path / "cache").load("tiny/spm/wine")
        assert len(asked) == before


@pytest.mark.parametrize("what", ["weights", "manifest", "longer", "gone"])
def test_what_is_not_as_promised_is_not_kept(tmp_path: Path, mirror: Path, what: str) -> None:
    folder = mirror / "tiny/spm/wine"
    path = folder / ("artifact.yaml" if what == "manifest" else "wine.safetensors")
    data = path.read_bytes()
    spoiled = data + b"\0" * 5_000_000 if what == "longer" else data[:-1] + bytes([data[-1] ^ 1])
    path.unlink() if what == "gone" else path.write_bytes(spoiled)
    cache = tmp_path / "cache"
    with served(mirror) as (address, _):
        with pytest.raises(ConceptGuardError):
            RemoteSource(address, cache).pull("tiny/spm/wine")
        kept = [one for one in cache.rglob("*") if one.is_file() and one.parent.name != "indexes"]
        assert all(one.read_bytes() != spoiled for one in kept) and not list(cache.glob("artifacts/*/artifact.yaml"))
        path.write_bytes(data)
        assert same(RemoteSource(address, cache).pull("tiny/spm/wine").tensors(), membrane(1))


def test_spoiled_cache_is_fetched_again(tmp_path: Path, mirror: Path) -> None:
    cache = tmp_path / "cache"
    with served(mirror) as (address, _):
        artifact = RemoteSource(address, cache).pull("tiny/spm/wine")
        weights = artifact.folder / "wine.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
        with pytest.raises(ArtifactError, match="altered"):
            RemoteSource(address, cache).load("tiny/spm/wine").tensors()
        assert same(RemoteSource(address, cache).pull("tiny/spm/wine").tensors(), membrane(1))


def test_a_newer_version_is_seen(tmp_path: Path, mirror: Path) -> None:
    with served(mirror) as (address, _):
        RemoteSource(address, tmp_path / "cache").pull("tiny/spm/wine")
        LocalSource(mirror).add(make(tmp_path / "made" / "next", "wine", 7, version="2"))
        newer = RemoteSource(address, tmp_path / "cache").load("tiny/spm/wine")
        assert newer.manifest.version == "2" and same(newer.tensors(), membrane(7))


def test_any_file_system_of_fsspec(tmp_path: Path, mirror: Path) -> None:
    source = RemoteSource(uploaded(mirror), tmp_path / "cache")
    assert same(source.load("tiny/spm/wine").tensors(), membrane(1))


def test_a_folder_by_address_is_guarded_as_a_folder(tmp_path: Path, mirror: Path) -> None:
    registry = Registry([mirror.as_uri()])
    assert isinstance(registry.sources[0], LocalSource) and len(registry.entries()) == 2
    for address in (mirror.as_uri(), f"local://{mirror}", str(mirror)):
        with pytest.raises(RegistryError, match="give it as a path"):
            RemoteSource(address, tmp_path / "cache")


@pytest.mark.parametrize(
    "change",
    [
        {"ref": "../../etc/spm/wine"},
        {"ref": "tiny/spm/wine/../x"},
        {"ref": "tiny/spm/beer"},
        {"sha256": "../../../../tmp/x"},
        {"bytes_manifest": 10**15},
        {"size": -1},
        {"size": 1},
        {"method": 3},
    ],
)
def test_a_lying_index(tmp_path: Path, mirror: Path, change: dict[str, object]) -> None:
    index = json.loads((mirror / "index.json").read_text())
    index["entries"] = [{**index["entries"][1], **change}]
    (mirror / "index.json").write_text(json.dumps(index))
    cache = tmp_path / "cache"
    with served(mirror) as (address, _), pytest.raises(ConceptGuardError):
        RemoteSource(address, cache).pull("tiny/spm/wine")
    assert not list(cache.glob("artifacts/*/artifact.yaml"))
