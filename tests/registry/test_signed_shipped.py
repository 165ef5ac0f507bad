"""The registry that ships is signed, by a root that the program brings, and stays so however late it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from signed_tools import Clock

from conceptguard.errors import ArtifactError, RegistryError
from conceptguard.registry import Registry, default_registry, shipped_folder
from conceptguard.registry.local import LocalSource
from conceptguard.registry.signed.packaged import PINNED, open_packaged

AGAIN = "sign it anew: python -m conceptguard_registry.build.sign (CONTRIBUTING.md, Keys)"


def test_everything_that_ships_is_signed(clock: Clock) -> None:
    """In a hundred years as well: what is installed has no newer state to wait for."""
    clock.on(36_500)
    shipped = default_registry().sources[0]
    by = open_packaged(shipped_folder()).signed_by
    registry = Registry([shipped])
    assert by and {registry.standing(entry) for entry in registry.entries()} == {by}, AGAIN
    for entry in registry.entries():
        assert registry.load(entry.ref, "signed").signed_by == by


def test_no_private_key_is_in_the_repository() -> None:
    root = Path(__file__).resolve().parents[2]
    for folder in ("registry/metadata", "conceptguard/registry/signed"):
        assert not [path for path in (root / folder).rglob("*") if path.suffix == ".pem"]
        assert not [path for path in (root / folder).rglob("*.json") if b"PRIVATE" in path.read_bytes()]


@pytest.fixture
def shipped(tmp_path: Path, clock: Clock) -> Path:
    """A copy of a part of it."""
    folder = tmp_path / "shipped"
    for part in ("metadata", "emoji-sd/spm/beer", "emoji-sd/spm/wine"):
        shutil.copytree(shipped_folder() / part, folder / part)
    return folder


def read(folder: Path) -> str:
    source = LocalSource(folder, writable=False, name="shipped", packaged=True)
    return Registry([source]).load("emoji-sd/spm/beer").signed_by


def test_another_artifact_under_a_shipped_name(shipped: Path) -> None:
    assert read(shipped)
    path = shipped / "emoji-sd/spm/beer/artifact.yaml"
    path.write_bytes(path.read_bytes().replace(b"floor: ", b"floor: 9"))
    with pytest.raises(ArtifactError, match="is not what conceptguard signed in shipped"):
        read(shipped)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_metadata_that_was_edited(shipped: Path, role: str) -> None:
    path = shipped / "metadata" / f"{role}.json"
    path.write_bytes(path.read_bytes().replace(b'"version": 1', b'"version": 2', 1).replace(b'"20', b'"21'))
    with pytest.raises(RegistryError, match=r"not signed by enough of the keys|does not belong together"):
        read(shipped)


def test_signatures_by_somebody_else(shipped: Path, tmp_path: Path) -> None:
    """Whoever replaces artifacts and signatures would have to replace the program's root too."""
    from conceptguard.registry.signed import publish

    shutil.rmtree(shipped / "metadata")
    with pytest.raises(RegistryError, match="signatures are missing"):
        read(shipped)
    publish.init(shipped, tmp_path / "keys", owner="conceptguard", consistent=False)
    with pytest.raises(RegistryError, match="not signed by enough of the keys"):
        read(shipped)
    assert PINNED.read_bytes() == (shipped_folder() / "metadata" / "1.root.json").read_bytes()


def test_a_new_root_for_a_fork(shipped: Path, tmp_path: Path) -> None:
    from conceptguard_registry.build.sign import begin

    before = (shipped / "metadata" / "1.root.json").read_bytes()
    with pytest.raises(RegistryError, match="inside of the registry"):
        begin(shipped, shipped / "keys", "Fork", tmp_path / "pinned.json")
    assert (shipped / "metadata" / "1.root.json").read_bytes() == before
    made = begin(shipped, tmp_path / "keys", "Fork", tmp_path / "pinned.json")
    assert made.artifacts == 2 and (tmp_path / "pinned.json").read_bytes() != before
