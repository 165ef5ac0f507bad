"""A mirror that lies: everything that TUF's specification names (section 1.5.2), against our own client.

Each test first shows that the honest registry is read, so that a refusal is one of the lie.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_tools import membrane
from signed_tools import CIGARETTE, WINE, Clock, Keeper, Mirror, Reader
from test_registry import same
from tuf.api.metadata import Metadata

from conceptguard.errors import ArtifactError, RegistryError
from conceptguard.registry.signed import change, client, publish
from conceptguard.registry.signed.keys import load_signers


def test_rollback(keeper: Keeper, mirror: Mirror, reader: Reader) -> None:
    """All of an older state, well signed and not expired."""
    old = keeper.copied("old")
    keeper.add("wine", 7, version="2")
    keeper.sign()
    assert same(reader.load().tensors(), membrane(7))
    mirror.folders = [old]
    with pytest.raises(RegistryError, match="older signed metadata than it did before"):
        reader.load()


def test_a_root_of_before(keeper: Keeper, mirror: Mirror, reader: Reader) -> None:
    """A stolen key was exchanged. A mirror that hides the new root lets it sign on, for who never saw the new one."""
    change.rotate(keeper.folder, "targets", [keeper.keys])
    reader.load()
    mirror.answer = lambda path: b"" if path.endswith("2.root.json") else None
    assert reader.load().signed_by == "Ann", "the newer root is remembered, and need not be shown again"


def test_freeze(keeper: Keeper, clock: Clock, mirror: Mirror, reader: Reader) -> None:
    """The same state for ever: it counts as long as its timestamp does, and no longer."""
    old = keeper.copied("old")
    clock.on(13)
    assert reader.load()
    keeper.add("wine", 7, version="2")
    keeper.sign()
    mirror.folders = [old]
    assert same(reader.load().tensors(), membrane(2)), "a mirror may lag"
    clock.on(2)
    with pytest.raises(RegistryError, match="signatures have expired"):
        reader.load()
    mirror.folders = [keeper.folder]
    assert same(reader.load().tensors(), membrane(7))


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_mix_and_match(keeper: Keeper, mirror: Mirror, reader: Reader, role: str) -> None:
    """Parts of two states, each well signed."""
    old = keeper.copied("old")
    keeper.add("wine", 7, version="2")
    keeper.sign()
    mirror.answer = lambda path: (
        (old / "metadata" / f"1.{role}.json").read_bytes() if path.endswith(f"2.{role}.json") else None
    )
    with pytest.raises(RegistryError, match="does not belong together"):
        reader.load()


def test_new_metadata_with_an_old_index(keeper: Keeper, mirror: Mirror, reader: Reader) -> None:
    """The index is signed as the rest is: a reference cannot be shown with the manifest of before."""
    old = (keeper.folder / "index.json").read_bytes()
    keeper.add("wine", 7, version="2")
    keeper.sign()
    mirror.answer = lambda path: old if path.endswith("index.json") else None
    with pytest.raises(RegistryError, match=r"index.json is not what Ann signed|more than the|ended"):
        reader.load()


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json", "2.root.json", "index.json"])
def test_endless_data(
    keeper: Keeper, mirror: Mirror, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more is read than was signed or, where nothing says, than such a file may have."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 64 * 1024 * 1024:
            sent += 65536
            yield b" " * 65536

    mirror.answer = lambda path: endless() if path.endswith(name) else None
    with pytest.raises(RegistryError, match=r"more than"):
        Reader(keeper, mirror, tmp_path / "other").load()
    assert sent < 8 * 1024 * 1024  # what sockets hold, and what such a file may have


def test_a_mirror_that_takes_all_day(
    keeper: Keeper, mirror: Mirror, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All metadata together has a deadline, however many roots there are to read."""
    monkeypatch.setattr(client, "TOTAL_SECONDS", -1.0)
    with pytest.raises(RegistryError, match="for its metadata"):
        reader.load()


def test_other_bytes(mirror: Mirror, keeper: Keeper, tmp_path: Path) -> None:
    """The manifest or the tensors of another artifact, of the same length."""
    reader = Reader(keeper, mirror, tmp_path / "cache")
    stolen = (keeper.folder / WINE / "wine.safetensors").read_bytes()
    mirror.answer = lambda path: stolen[:-4] + b"\0\0\0\0" if path.endswith("wine.safetensors") else None
    with pytest.raises(ArtifactError, match="not what the registry promised"):
        reader.load()
    assert reader.load(CIGARETTE).signed_by == "Ann"


def test_signatures_taken_away(mirror: Mirror, reader: Reader) -> None:
    """Where a root is trusted, an unsigned registry at the same address is none."""
    mirror.answer = lambda path: None
    whole = mirror.folders[0]
    plain = whole.parent / "plain"
    shutil.copytree(whole, plain, ignore=shutil.ignore_patterns("metadata", "targets"))
    mirror.folders = [plain]
    with pytest.raises(RegistryError, match="metadata is missing"):
        reader.load()


def forged(path: Path, said: dict[str, Any], signers: list[Any]) -> bytes:
    """Metadata with changed words, signed by whoever has a key."""
    metadata = Metadata.from_bytes(path.read_bytes())
    fields = metadata.signed.to_dict() | said
    changed = Metadata(type(metadata.signed).from_dict(json.loads(json.dumps(fields))))
    for signer in signers:
        changed.sign(signer, append=True)
    return changed.to_bytes()


def of(keeper: Keeper, *names: str) -> list[Any]:
    """Signers of the key files with these names."""
    found = []
    for name in names:
        folder = keeper.home / f"stolen-{name}"
        folder.mkdir(exist_ok=True)
        shutil.copy(keeper.keys / f"{name}.pem", folder)
        found += load_signers([folder]).values()
    return found


def test_a_stolen_online_key_adds_no_artifact(keeper: Keeper, mirror: Mirror, reader: Reader) -> None:
    """It can say that something is newest, and it cannot say what there is."""
    path = keeper.folder / "metadata" / "1.targets.json"
    bad = forged(path, {"version": 2, "targets": {}}, of(keeper, "online-1"))
    snapshot = {"version": 2, "meta": {"targets.json": {"version": 2}}}
    newer = forged(keeper.folder / "metadata" / "1.snapshot.json", snapshot, of(keeper, "online-1"))
    timestamp = {"version": 2, "meta": {"snapshot.json": {"version": 2}}}
    newest = forged(keeper.folder / "metadata" / "timestamp.json", timestamp, of(keeper, "online-1"))
    told = {"2.targets.json": bad, "2.snapshot.json": newer, "timestamp.json": newest}
    mirror.answer = lambda path: told.get(path.rpartition("/")[2])
    with pytest.raises(RegistryError, match="not signed by enough of the keys"):
        reader.load()


@pytest.mark.parametrize(("stolen", "holds"), [(("root-1",), True), (("root-1", "root-3"), False)])
def test_one_stolen_root_key_changes_nothing(
    keeper: Keeper, mirror: Mirror, reader: Reader, stolen: tuple[str, ...], holds: bool
) -> None:
    """Two are needed, and then the registry is the thief's: a threshold is worth what it takes to reach it."""
    new = forged(keeper.folder / "metadata" / "1.root.json", {"version": 2}, of(keeper, *stolen))
    mirror.answer = lambda path: new if path.endswith("2.root.json") else None
    if holds:
        with pytest.raises(RegistryError, match="not signed by enough of the keys"):
            reader.load()
    else:
        assert reader.load()


def test_a_stolen_targets_key_is_exchanged(keeper: Keeper, mirror: Mirror, reader: Reader) -> None:
    """What it signs counts until it is exchanged, and never again to who has seen that."""
    thief = of(keeper, "targets-1", "online-1")
    change.rotate(keeper.folder, "targets", [keeper.keys])
    change.rotate(keeper.folder, "online", [keeper.keys])
    assert reader.load().signed_by == "Ann"
    folder = keeper.folder / "metadata"
    bad = forged(folder / "2.targets.json", {"version": 9, "targets": {}}, thief)
    snapshot = {"version": 9, "meta": {"targets.json": {"version": 9}}}
    timestamp = {"version": 9, "meta": {"snapshot.json": {"version": 9}}}
    newest = sorted(folder.glob("*.snapshot.json"))[-1]
    told = {"9.targets.json": bad, "9.snapshot.json": forged(newest, snapshot, thief),
            "timestamp.json": forged(folder / "timestamp.json", timestamp, thief)}  # fmt: skip
    mirror.answer = lambda path: told.get(path.rpartition("/")[2])
    with pytest.raises(RegistryError, match="not signed by enough of the keys"):
        reader.load()


def test_a_version_run_ahead_is_forgiven_with_the_key(keeper: Keeper, mirror: Mirror, reader: Reader) -> None:
    """A thief of the online key says that version 1,000,000 is newest; after the exchange the honest 3 counts."""
    thief = of(keeper, "online-1")
    far = forged(keeper.folder / "metadata" / "timestamp.json", {"version": 1_000_000}, thief)
    mirror.answer = lambda path: far if path.endswith("timestamp.json") else None
    reader.load()
    mirror.answer = lambda path: None
    with pytest.raises(RegistryError, match="older signed metadata"):
        reader.load()
    change.rotate(keeper.folder, "online", [keeper.keys])
    assert reader.load().signed_by == "Ann"


def test_a_clock_that_is_set_back(keeper: Keeper, clock: Clock, mirror: Mirror, reader: Reader) -> None:
    """What had expired does not come back: the time goes on from the latest that this registry was read at."""
    old = keeper.copied("old")
    clock.on(40)
    publish.sign(keeper.folder, [keeper.keys])
    reader.load()
    clock.on(-40)
    shutil.rmtree(next(reader.cache.glob("trust/*")) / "metadata")  # the memory of versions, not that of the time
    mirror.folders = [old]
    with pytest.raises(RegistryError, match="signatures have expired"):
        reader.load()


def test_offline_for_as_long_as_the_publisher_said(
    keeper: Keeper, clock: Clock, reader: Reader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONCEPTGUARD_OFFLINE", "1")
    clock.on(13)
    source = reader.source()
    assert source.load(WINE).signed_by == "Ann"
    assert "using the signatures kept from before" in capsys.readouterr().err
    clock.on(2)
    with pytest.raises(RegistryError, match="signatures have expired"):
        reader.load()
    with pytest.raises(RegistryError, match="its signatures count until 2026-12-15"):
        source.load(WINE)  # also for a process that has run since then
    with pytest.raises(RegistryError, match="no signatures of it were kept"):
        Reader(keeper, reader.mirror, reader.cache / "new").load()


def test_an_edited_cache(reader: Reader) -> None:
    """What was fetched is checked against what is signed each time."""
    path = reader.load().folder / "artifact.yaml"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ArtifactError, match="altered"):
        reader.load()
