"""Signing, exchanging keys and taking back, as a keeper does it; what a policy makes of it, as a reader does."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from registry_tools import make, membrane
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Signature, SigstoreKey, SigstoreSigner
from signed_tools import CIGARETTE, WINE, Clock, Keeper, Mirror, Reader, mirrored
from test_registry import same

from conceptguard.errors import ArtifactError, RegistryError
from conceptguard.registry import Registry
from conceptguard.registry.local import LocalSource
from conceptguard.registry.signed import change, client, layout, publish, roots
from conceptguard.registry.signed.keys import new_key, read_public, sigstore_key


def standing(source: Any) -> dict[str, str]:
    registry = Registry([source])
    return {entry.ref: registry.standing(entry) for entry in registry.entries()}


def test_unsigned_is_as_before_and_called_so(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "plain"
    LocalSource(folder).add(make(tmp_path / "a"))
    registry = Registry([folder])
    assert registry.load(CIGARETTE).signed_by == "" and standing(folder) == {CIGARETTE: "unsigned"}
    assert [row["signed"] for row in registry.verify()] == ["unsigned"]
    for ref in (CIGARETTE, folder / CIGARETTE):
        with pytest.raises(ArtifactError, match=r"tiny/spm/cigarette: unsigned, and the policy has `trust: signed`"):
            registry.load(ref, "signed")


def test_signed_by_somebody_is_unsigned_until_they_are_trusted(keeper: Keeper) -> None:
    registry = Registry([keeper.folder])
    assert registry.load(WINE).signed_by == "" and standing(keeper.folder)[WINE] == "unsigned"
    with pytest.raises(ArtifactError, match=r"nobody's signature on .* is trusted here: `conceptguard registry trust"):
        registry.load(WINE, "signed")
    roots.trust(keeper.folder, keeper.root)
    assert registry.load(WINE, "signed").signed_by == "Ann"
    assert standing(keeper.folder) == {WINE: "Ann", CIGARETTE: "Ann"}
    assert {row["signed"] for row in Registry([keeper.folder]).verify()} == {"Ann"}
    roots.distrust(keeper.folder)
    assert registry.load(WINE).signed_by == ""


def test_a_trusted_folder_must_verify(keeper: Keeper, tmp_path: Path) -> None:
    """What was added since is unsigned; what was changed since is refused, whatever the policy says."""
    roots.trust(keeper.folder, keeper.root)
    keeper.add("dagger", 3)
    keeper.add("wine", 7)
    registry = Registry([keeper.folder])
    assert registry.load("tiny/spm/dagger").signed_by == ""
    with pytest.raises(ArtifactError, match=r"came into .* after that was signed: `conceptguard sign"):
        registry.load("tiny/spm/dagger", "signed")
    with pytest.raises(ArtifactError, match="not what Ann signed"):
        registry.load(WINE)
    assert {row["ref"]: row["ok"] for row in registry.verify()} == {
        CIGARETTE: True,
        "tiny/spm/dagger": True,
        WINE: False,
    }
    keeper.sign()
    assert same(registry.load(WINE, "signed").tensors(), membrane(7))
    shutil.rmtree(keeper.folder / "metadata")
    with pytest.raises(RegistryError, match="metadata is missing"):
        registry.load(WINE)


def test_replaced_while_in_use(keeper: Keeper) -> None:
    """A signed artifact does not go on with what somebody put in its place after it was opened."""
    roots.trust(keeper.folder, keeper.root)
    artifact = Registry([keeper.folder]).load(WINE)
    keeper.add("wine", 7)
    with pytest.raises(ArtifactError, match="signed was the one before"):
        artifact.tensors()


def test_revoked_says_why_and_what_instead(keeper: Keeper, mirror: Mirror, reader: Reader) -> None:
    change.revoke(keeper.folder, WINE, [keeper.keys], reason="comes\x1b[2J back", successor=CIGARETTE)
    for act in (reader.source().load, reader.source().pull):
        with pytest.raises(
            ArtifactError, match=r"revoked \(comes \[2J back\), says Ann in http.*: use tiny/spm/cigarette"
        ):
            act(WINE)
    assert standing(reader.source()) == {WINE: "revoked (comes [2J back)", CIGARETTE: "Ann"}
    keeper.add("wine", 7, version="2")
    keeper.sign()
    assert same(reader.load().tensors(), membrane(7)), "a new version is not meant"
    change.revoke(keeper.folder, WINE, [keeper.keys], reason="again")
    change.revoke(keeper.folder, WINE, [keeper.keys], undo=True)
    assert reader.load().signed_by == "Ann"


def test_an_artifact_expires_by_itself(keeper: Keeper, clock: Clock, reader: Reader) -> None:
    change.revoke(keeper.folder, WINE, [keeper.keys], expires="2026-12-06", successor=CIGARETTE)
    source = reader.source()
    clock.on(4)
    assert source.load(WINE)
    clock.on(1)
    with pytest.raises(ArtifactError, match=r"expired on 2026-12-06, says Ann .* use tiny/spm/cigarette instead"):
        source.load(WINE)


@pytest.mark.parametrize("words", [{}, {"reason": "x", "expires": "2027-01-01"}, {"expires": "soon"},
                                   {"reason": "x", "successor": "wine"}])  # fmt: skip
def test_what_cannot_be_said_is_not_signed(keeper: Keeper, words: dict[str, str]) -> None:
    with pytest.raises(RegistryError, match=r"--reason|no date|in full"):
        change.revoke(keeper.folder, WINE, [keeper.keys], **words)
    with pytest.raises(RegistryError, match="not signed in"):
        change.revoke(keeper.folder, "tiny/spm/gin", [keeper.keys], reason="x")


def test_only_what_changed_is_signed_anew(keeper: Keeper, clock: Clock, tmp_path: Path) -> None:
    """And with the online key alone a registry stays current until half of the others' time is over."""
    online = tmp_path / "online"
    online.mkdir()
    shutil.copy(keeper.keys / "online-1.pem", online)
    assert publish.sign(keeper.folder, [online]).changed == ["timestamp"]
    clock.on(16)
    assert publish.sign(keeper.folder, [online]).changed == ["snapshot", "timestamp"]
    keeper.add("wine", 7)
    waits = publish.sign(keeper.folder, [online])
    assert waits.missing == ["Ann"] and waits.changed == ["targets"]
    assert keeper.sign().changed == ["targets", "snapshot", "timestamp"]
    clock.on(91)
    assert keeper.sign().changed == ["targets", "snapshot", "timestamp"]


def test_nothing_bad_is_signed(keeper: Keeper) -> None:
    weights = keeper.folder / WINE / "wine.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="truncated"):
        keeper.sign()


def test_who_reads_while_it_is_signed_finds_all(keeper: Keeper, mirror: Mirror, reader: Reader) -> None:
    """Consistent snapshots: a reader that began before finds the files of before, and the others go in time."""
    source = reader.source()
    source.entries()
    keeper.add("cigarette", 7, version="2")
    keeper.sign()
    assert same(source.load(CIGARETTE).tensors(), membrane(1)) and same(reader.load(CIGARETTE).tensors(), membrane(7))
    kept = [path for path in (keeper.folder / "targets" / CIGARETTE).iterdir()]
    for seed in (8, 9, 10):
        keeper.add("cigarette", seed, version=str(seed))
        keeper.sign()
    assert len(kept) == 4 and len([*(keeper.folder / "targets" / CIGARETTE).iterdir()]) == 6
    assert sorted(p.name for p in (keeper.folder / "metadata").glob("*.targets.json")) == [
        f"{n}.targets.json" for n in (3, 4, 5)
    ]


def test_two_must_sign_in_two_places(tmp_path: Path, clock: Clock) -> None:
    keeper = Keeper(tmp_path, targets_keys=2, targets_threshold=2)
    roots.trust(keeper.folder, keeper.root)
    away = tmp_path / "away"
    away.mkdir()
    shutil.move(keeper.keys / "targets-2.pem", away)
    keeper.add("wine", 7)
    waits = keeper.sign()
    assert waits.missing == ["Ann (targets 2)"]
    shutil.move(keeper.keys / "targets-1.pem", tmp_path)
    done = publish.sign(keeper.folder, [away, keeper.keys])
    assert done.missing == [] and done.changed == ["targets", "snapshot", "timestamp"]
    signed = Registry([keeper.folder]).load(WINE, "signed")
    assert signed.signed_by == "Ann (targets 1), Ann (targets 2)" and same(signed.tensors(), membrane(7))


def test_a_root_waits_for_its_second_signature(keeper: Keeper, mirror: Mirror, reader: Reader, tmp_path: Path) -> None:
    """Keys of the root lie apart; where one place cannot reach the threshold, it says whose are missing."""
    away = tmp_path / "away"
    away.mkdir()
    for name in ("root-2", "root-3"):
        shutil.move(keeper.keys / f"{name}.pem", away)
    waits = change.rotate(keeper.folder, "targets", [keeper.keys], named="Bea")
    assert waits.missing == ["Ann (root 2)", "Ann (root 3)"]
    assert reader.load().signed_by == "Ann"
    done = change.rotate(keeper.folder, "targets", [away, keeper.keys])
    assert done.missing == [] and reader.load().signed_by == "Bea"


def test_a_colleague_joins(keeper: Keeper, mirror: Mirror, reader: Reader, tmp_path: Path) -> None:
    key = read_public(_public(tmp_path / "bea"), "Bea")
    with pytest.raises(RegistryError, match="a threshold of 3 of 2 keys"):
        change.rotate(keeper.folder, "targets", [keeper.keys], key=key, add=True, threshold=3)
    waits = change.rotate(keeper.folder, "targets", [keeper.keys], key=key, add=True, threshold=2)
    assert waits.missing == ["Bea"]
    assert reader.load().signed_by == "Ann", "readers wait with it"
    publish.sign(keeper.folder, [keeper.keys, tmp_path / "bea"])
    assert reader.load().signed_by == "Ann, Bea"
    with pytest.raises(RegistryError, match=r"which key of targets goes\? Say --old NAME; there are: Ann .*, Bea "):
        change.rotate(keeper.folder, "targets", [keeper.keys])


def _public(folder: Path) -> Path:
    new_key(folder / "k.pem", "whoever")
    return folder / "k.pem"


def test_an_identity_signs(keeper: Keeper, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sigstore's place in a registry, with somebody in it who needs no network: its own part is not tested here."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    key = sigstore_key("bea@example.org", "https://issuer.example.org")

    class Signer:
        public_key = key

        def sign(self, payload: bytes) -> Signature:
            return Signature(key.keyid, hashlib.sha256(payload).hexdigest(), {"bundle": {"whose": "Bea's"}})

    def verify(self: SigstoreKey, signature: Signature, data: bytes) -> None:
        told = self.keyval["identity"], signature.unrecognized_fields["bundle"]["whose"]
        if told != ("bea@example.org", "Bea's") or signature.signature != hashlib.sha256(data).hexdigest():
            raise UnverifiedSignatureError("somebody else's")

    def signer(uri: str, key: Any) -> Signer:
        if logged_in:
            return Signer()
        raise RuntimeError("no browser here")

    logged_in = False
    monkeypatch.setattr(SigstoreSigner, "from_priv_key_uri", signer)
    monkeypatch.setattr(SigstoreKey, "verify_signature", verify)
    with pytest.raises(RegistryError, match=r"sigstore did not sign for bea@example.org: no browser here"):
        change.rotate(keeper.folder, "targets", [keeper.keys], key=key)
    assert reader.load().signed_by == "Ann"
    logged_in = True
    keeper.sign()
    assert reader.load().signed_by == "bea@example.org"


def test_many_targets_are_spread(tmp_path: Path, clock: Clock) -> None:
    """Hashed bins: a reader fetches the one that it needs."""
    keeper = Keeper(tmp_path, bins=16)
    with mirrored(Mirror(keeper.folder)) as mirror:
        reader = Reader(keeper, mirror, tmp_path / "cache")
        assert reader.load().signed_by == "Ann"
        assert 1 <= len({path for path in mirror.asked if "bins-" in path}) <= 3
        change.revoke(keeper.folder, WINE, [keeper.keys], reason="weak")
        change.rotate(keeper.folder, "targets", [keeper.keys])
        with pytest.raises(ArtifactError, match="revoked"):
            reader.load()
        assert reader.load(CIGARETTE).signed_by == "Ann"


def test_a_server_that_runs_for_long(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked up late has a deadline of its own."""
    keeper = Keeper(tmp_path, bins=32)
    roots.trust(keeper.folder, keeper.root)
    registry = Registry([keeper.folder])
    assert registry.load(WINE).signed_by == "Ann"
    monkeypatch.setattr(client, "TOTAL_SECONDS", 0.2)
    time.sleep(0.3)
    assert registry.load(CIGARETTE).signed_by == "Ann"


def test_what_is_written_can_be_read(keeper: Keeper, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper is told of too much metadata, not the reader."""
    monkeypatch.setitem(layout.LIMITS, "targets", 1000)
    keeper.add("gin", 3)
    with pytest.raises(RegistryError, match=r"targets would be 1,\d+ bytes, more than the 1,000 that a reader takes"):
        keeper.sign()
    assert reader.load().signed_by == "Ann"


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_keys_are_their_owners_alone(keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {stat.S_IMODE(path.stat().st_mode) for path in keeper.keys.iterdir()} == {0o600}
    with pytest.raises(RegistryError, match="inside of the registry"):
        publish.init(tmp_path, tmp_path / "x", owner="Ann")
    with pytest.raises(RegistryError, match="inside of the registry"):
        publish.sign(keeper.folder, [keeper.folder / "keys"])
    with pytest.raises(RegistryError, match="there is a key already"):
        new_key(keeper.keys / "root-1.pem", "Eve")
    monkeypatch.setenv("CONCEPTGUARD_PASSPHRASE", "long and secret")
    change.rotate(keeper.folder, "online", [keeper.keys])
    assert b"ENCRYPTED" in (keeper.keys / "online-2.pem").read_bytes()
    assert keeper.sign().changed == ["timestamp"]
    for phrase, says in (("wrong", "wrong CONCEPTGUARD_PASSPHRASE"), ("", "set CONCEPTGUARD_PASSPHRASE")):
        monkeypatch.setenv("CONCEPTGUARD_PASSPHRASE", phrase)
        with pytest.raises(RegistryError, match=says):
            keeper.sign()


class Dying:
    """Writes of metadata end the process when so many are ``left``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        from conceptguard.registry.signed import repository

        self._real, self.left = repository.write_bytes, 0
        monkeypatch.setattr(repository, "write_bytes", self._write)

    def _write(self, path: Path, data: bytes) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self._real(path, data)


def test_killed_while_signing(keeper: Keeper, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every write: readers meet the state before or after, and signing again ends it."""
    writer = Dying(monkeypatch)
    for writes in range(4):
        keeper.add("cigarette", 10 + writes, version=str(2 + writes))
        writer.left = writes
        if writes < 3:
            with pytest.raises(KeyboardInterrupt):
                keeper.sign()
            assert same(reader.load(CIGARETTE).tensors(), membrane(1 if writes == 0 else 10 + writes - 1))
        writer.left = 100
        keeper.sign()
        assert same(reader.load(CIGARETTE).tensors(), membrane(10 + writes))


def test_killed_while_a_key_is_exchanged(
    keeper: Keeper, reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every write: no reader is ever refused, since old and new keys both sign until the new root is there."""
    writer = Dying(monkeypatch)
    for writes in range(6):
        writer.left = writes
        try:
            change.rotate(keeper.folder, "targets", [keeper.keys], named=f"Bea {writes}")
        except KeyboardInterrupt:
            assert writes < 5
        assert reader.load().signed_by in ("Ann", *(f"Bea {n}" for n in range(writes + 1)))
        writer.left = 100
        keeper.sign()
        assert reader.load()
    assert reader.load().signed_by != "Ann"


def test_a_lost_key_is_exchanged(keeper: Keeper, reader: Reader) -> None:
    """Nobody can sign by the old one: readers learn of the new root first."""
    (keeper.keys / "targets-1.pem").unlink()
    (keeper.keys / "online-1.pem").unlink()
    keeper.add("gin", 3)
    change.rotate(keeper.folder, "online", [keeper.keys], named="Bea (online)")
    done = change.rotate(keeper.folder, "targets", [keeper.keys], named="Bea")
    assert done.missing == [] and reader.load("tiny/spm/gin").signed_by == "Bea"


def test_readers_in_many_threads(keeper: Keeper, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """python-tuf's client is for one at a time in a folder; ours takes turns."""
    wrong: list[BaseException] = []
    at_work: list[int] = []
    real = client._refreshed

    def refreshed(*arguments: Any) -> Any:
        at_work.append(1)
        time.sleep(0.02)
        assert len(at_work) == 1, "two at a time"
        at_work.pop()
        return real(*arguments)

    monkeypatch.setattr(client, "_refreshed", refreshed)

    def read() -> None:
        try:
            assert reader.load().signed_by == "Ann"
        except BaseException as cause:
            wrong.append(cause)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
