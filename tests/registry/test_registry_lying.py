"""Servers that are slow, break off and lie, at random: what is read is right or refused, and the cache stays sound."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_tools import make, membrane
from signed_tools import WINE, Keeper, Mirror, Reader
from test_registry import same
from test_registry_network import answering

from conceptguard.errors import ArtifactError, RegistryError
from conceptguard.files.atomic import sha256_file
from conceptguard.registry import fetch, shards
from conceptguard.registry.index import Entry
from conceptguard.registry.local import LocalSource
from conceptguard.registry.remote import RemoteSource

CHANGED, GONE, KEPT = "tiny/spm/c1", "tiny/spm/c2", "tiny/spm/c0"
BREAKS = ("cut", "nothing", "no HTTP", "error 404", "error 500", "sent away", "slow")
LIES = ("shorter", "longer", "flipped", "another file", "older")
# Who is not signed is believed the first time that an index is read: no test tells a well-made one from another.
UNSIGNED_INDEX = ("shorter", "longer", "older")


class Liar:
    """A server of the newer of two versions, which in each round does with each path what a number says."""

    def __init__(self, older: Path, newer: Path, seed: int, often: float = 0.35) -> None:
        self.older, self.newer, self.seed, self.often = older, newer, seed, often
        self.round, self.faults, self.honest = 0, 0, False
        self.files = [path for path in sorted(newer.rglob("*")) if path.is_file() and path.name != ".lock"]

    def chosen(self, path: str, kinds: tuple[str, ...]) -> tuple[str, random.Random]:
        """What is done with a path in this round, whichever thread asks first."""
        chance = random.Random(f"{self.seed} {self.round} {path}")
        if self.honest or chance.random() > self.often:
            return "", chance
        self.faults += 1
        return chance.choice(kinds), chance

    def bytes_of(self, path: str, kind: str, chance: random.Random) -> bytes | None:
        """What the path holds, in this kind of lie; None where there is nothing."""
        whole = self.newer / path.lstrip("/")
        if kind == "older":
            whole = self.older / path.lstrip("/")
        elif kind == "another file":
            whole = chance.choice(self.files)
        if not whole.is_file():
            return None
        data = whole.read_bytes()
        if kind == "shorter":
            return data[: chance.randrange(len(data))]
        if kind == "longer":
            return data + chance.randbytes(chance.choice((1, 100, 100_000)))
        if kind == "flipped":
            place = chance.randrange(len(data))
            return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
        return data

    def answer(self, connection: socket.socket, path: str) -> None:
        """One answer over HTTP, or none."""
        kind, chance = self.chosen(path, BREAKS + (UNSIGNED_INDEX if path == "/index.json" else LIES))
        if kind == "nothing":
            return
        if kind == "no HTTP":
            connection.sendall(chance.randbytes(200))
            return
        data = self.bytes_of(path, kind, chance)
        if kind.startswith("error") or data is None:
            connection.sendall(f"HTTP/1.1 {kind[6:] or 404} X\r\nContent-Length: 0\r\n\r\n".encode())
        elif kind == "sent away":
            connection.sendall(b"HTTP/1.1 302 X\r\nLocation: http://127.0.0.2/\r\nContent-Length: 0\r\n\r\n")
        else:
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            if kind == "slow":
                connection.sendall(head + data[:1])
                time.sleep(2.5 * fetch.GRACE_SECONDS)
                data = data[1:]
                head = b""
            connection.sendall(head + (data[: len(data) // 2] if kind == "cut" else data))


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A registry whose index has shards, before and after a change; of the change, one artifact is gone."""
    home = tmp_path_factory.mktemp("versions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "FEW", 2)
        patch.setattr(shards, "PER_SHARD", 2)
        for number in range(8):
            LocalSource(home / "new").add(make(home / f"a{number}", f"c{number}", number))
        shutil.copytree(home / "new", home / "old")
        LocalSource(home / "new").add(make(home / "next", "c1", 77, version="2"))
        LocalSource(home / "new").remove(GONE)
        yield home / "old", home / "new"


def plain(source: Any) -> list[tuple[str, str, str]]:
    return [(entry.ref, entry.version, entry.sha256) for entry in source.entries()]


def values(source: RemoteSource, ref: str) -> float | None:
    """What the factors of an artifact are filled with; None where it is refused."""
    try:
        tensors = source.pull(ref).tensors()
    except (RegistryError, ArtifactError) as cause:
        assert "\n" not in str(cause) and len(str(cause)) < 600
        return None
    return next(seed for seed in (0, 1, 77) if same(tensors, membrane(seed)))


@contextlib.contextmanager
def impatient(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "GRACE_SECONDS", seconds)
        yield


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(100, 400), marks=pytest.mark.slow)], ids=len)
def test_a_server_that_cannot_be_relied_on(
    versions: tuple[Path, Path],
    seeds: range,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    old, new = (plain(LocalSource(version)) for version in versions)
    faults, refused, read = 0, 0, 0
    for seed in seeds:
        liar, cache, newest = Liar(*versions, seed), tmp_path / str(seed), False
        with answering(liar.answer) as address:
            for liar.round in range(4):
                with impatient(monkeypatch, 0.2):
                    source = RemoteSource(address, cache)
                    try:
                        listed = plain(source)
                    except RegistryError as cause:
                        refused += 1
                        assert "\n" not in str(cause)
                    else:
                        read += 1
                        assert listed == new or (listed == old and not newest), (seed, liar.round)
                        newest |= listed == new
                    found: Entry | None = None
                    with contextlib.suppress(RegistryError):
                        found = source.find(CHANGED)
                        assert found is not None and found.version in ("1", "2")[newest:], (seed, liar.round)
                    assert values(source, CHANGED) in (None, 77, *([] if newest else [1])), (seed, liar.round)
                    assert values(source, KEPT) in (None, 0), (seed, liar.round)
            liar.honest = True
            source = RemoteSource(address, cache)
            assert plain(source) == new and (values(source, CHANGED), values(source, KEPT)) == (77, 0), seed
        sound(cache)
        faults += liar.faults
    assert faults > 5 * len(seeds) and refused > len(seeds) / 4 and read > len(seeds) / 4
    record_property("faults", faults)


def sound(cache: Path) -> None:
    """Each blob is what its name says, and nothing half is left."""
    blobs = [path for path in (cache / "blobs").rglob("*") if path.is_file()]
    assert blobs and all(sha256_file(path) == path.name for path in blobs)
    assert not list(cache.rglob(".new-*"))


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(100, 400), marks=pytest.mark.slow)], ids=len)
def test_a_mirror_of_a_signed_registry_that_lies_in_any_byte(
    keeper: Keeper,
    mirror: Mirror,
    reader: Reader,
    seeds: range,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Metadata, index and files: all of it may be anything."""
    old = keeper.copied("old")
    keeper.add("wine", 7, version="2")
    keeper.sign()
    faults, refused, before = 0, 0, tmp_path / "before"
    shutil.copytree(reader.cache, before)
    for seed in seeds:
        liar, newest = Liar(old, keeper.folder, seed), False

        def answer(path: str, liar: Liar = liar) -> bytes | None:
            kind, chance = liar.chosen(path, LIES)
            return liar.bytes_of(path, kind, chance) if kind else None

        mirror.answer, reader.cache = answer, tmp_path / f"cache-{seed}"
        shutil.copytree(before, reader.cache)  # who has read the version before
        for liar.round in range(3):
            try:
                artifact = reader.load()
            except (RegistryError, ArtifactError):
                refused += 1
                continue
            got = next(one for one in (2, 7) if same(artifact.tensors(), membrane(one)))
            assert artifact.signed_by == "Ann" and (got == 7 or not newest), (seed, liar.round)
            newest |= got == 7
        liar.honest = True
        assert same(reader.load(WINE).tensors(), membrane(7)), seed
        sound(reader.cache)
        faults += liar.faults
    assert faults > len(seeds) and refused > 0
    record_property("faults", faults)
