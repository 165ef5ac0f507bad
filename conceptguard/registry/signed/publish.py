"""Signing a registry folder: begin, and sign what there is now.

What is new is written first and named last: targets, then the snapshot that lists them, then the timestamp, in one
step. Whoever reads meanwhile, or after the writer was killed, meets the state before or the state after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptguard.errors import RegistryError
from conceptguard.files.atomic import locked, read_limited, sha256_file
from conceptguard.files.paths import INDEX, MANIFEST, MAX_INDEX
from conceptguard.registry.cache import place
from conceptguard.registry.signed import clock
from conceptguard.registry.signed.keys import check_outside, load_signers, new_key
from conceptguard.registry.signed.layout import (
    BESIDE,
    BINS,
    DAYS,
    MAX_TARGETS,
    METADATA,
    NOTICES,
    TARGETS,
    file_name,
    fingerprint,
    served_path,
)  # fmt: skip
from conceptguard.registry.signed.repository import Repository

DEFAULT_DAYS = {"root": 730, "targets": 180, "snapshot": 30, "timestamp": 14}

Progress = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Signed:
    """What signing came to. expires: by role; changed: the roles that were signed anew; missing: owners of keys that
    are still to sign, in which case nothing of theirs was published; fingerprint: of the root.
    """

    artifacts: int
    expires: dict[str, str]
    changed: list[str]
    missing: list[str]
    fingerprint: str


def init(
    folder: Path, keys: Path, *, owner: str, root_keys: int = 3, root_threshold: int = 2, targets_keys: int = 1,
    targets_threshold: int = 1, days: Mapping[str, int] | None = None, consistent: bool = True, bins: int = 0,
    progress: Progress = iter,
) -> Signed:  # fmt: skip
    """Begin to sign a registry: make keys, name them in a root, and sign what is there. Raises RegistryError.

    keys: a folder for the private keys, `root-1.pem` and so on; consistent: serve files under names with their hash as
    well, for who reads while the registry changes; bins: over how many files of metadata targets are spread, a power of
    two, for registries of many thousands.
    """
    from tuf.api.metadata import Metadata, Role, Root

    if (folder / METADATA).exists():
        raise RegistryError(f"{folder}: signed already: `conceptguard sign {folder}` signs what changed")
    if not folder.is_dir():
        raise RegistryError(f"{folder}: no such folder: give a registry's, as `conceptguard make --out` writes it")
    if bins and (bins & (bins - 1) or not 2 <= bins <= 4096):
        raise RegistryError(f"{bins} bins: give a power of two, up to 4096")
    if not 1 <= root_threshold <= root_keys or not 1 <= targets_threshold <= targets_keys:
        raise RegistryError("a threshold is at least 1, and no more than there are keys")
    check_outside(keys, folder)
    root = Root(consistent_snapshot=consistent)
    root.unrecognized_fields[DAYS] = _days(days or {})
    if bins:
        root.unrecognized_fields[f"x-conceptguard-{BINS}"] = bins
    for role, count, threshold in (("root", root_keys, root_threshold), ("targets", targets_keys, targets_threshold)):
        made = [new_key(keys / f"{role}-{n + 1}.pem", owner if count == 1 else f"{owner} ({role} {n + 1})")
                for n in range(count)]  # fmt: skip
        root.roles[role] = Role([], threshold)
        for key in made:
            root.add_key(key, role)
    online = new_key(keys / "online-1.pem", f"{owner} (online)")
    for role in ("snapshot", "timestamp"):
        root.add_key(online, role)
    from datetime import timedelta

    root.expires = clock.now() + timedelta(days=root.unrecognized_fields[DAYS]["root"])
    metadata, signers = Metadata(root), load_signers([keys])
    for keyid in root.roles["root"].keyids:
        metadata.sign(signers[keyid], append=True)
    from conceptguard.files.atomic import write_bytes

    write_bytes(folder / METADATA / file_name("root", 1), metadata.to_bytes())
    return sign(folder, [keys], progress=progress)


def _days(given: Mapping[str, int]) -> dict[str, int]:
    for role, number in given.items():
        if role not in DEFAULT_DAYS or not 1 <= number <= 36500:
            raise RegistryError(f"{role}={number}: give days, 1 or more, for {', '.join(DEFAULT_DAYS)}")
    return {**DEFAULT_DAYS, **given}


def sign(
    folder: Path, keys: Sequence[Path], *, notices: Mapping[str, Any] | None = None, progress: Progress = iter
) -> Signed:
    """Check every artifact of a registry, list them, and sign what changed since. Raises RegistryError, ArtifactError.

    The timestamp is signed each time, other roles where something changed or half of their time is over: the online key
    alone keeps a registry current in which nothing changed.
    """
    from conceptguard.registry import rebuild_index

    repository = Repository(folder)
    for one in keys:
        check_outside(one, folder)
    signers = load_signers(keys)
    entries = rebuild_index(folder)
    with locked(folder):
        files = _files(folder, entries, progress)
        changed, missing = _sign_targets(repository, files, notices, signers)
        if not missing:
            if repository.authority.consistent_snapshot:
                _copy(repository, files)
            missing = _sign_rest(repository, changed, signers)
        if not missing:
            _clean(repository)
    return _report(repository, len(entries), changed, missing)


def _files(folder: Path, entries: Sequence[Any], progress: Progress) -> dict[str, Any]:
    """What is to be signed: manifests, their files, policies, suites, models, and the index, each as it is on the disk
    now.
    """
    from tuf.api.metadata import TargetFile

    from conceptguard.registry.artifact import open_artifact, waits
    from conceptguard.registry.signed.beside import files_beside
    from conceptguard.registry.write import settle

    found = {}
    for entry in progress(entries):
        if waits(folder / entry.ref):
            with locked(folder / entry.ref):
                settle(folder / entry.ref)
        artifact = open_artifact(folder / entry.ref)
        artifact.verify()
        if sha256_file(folder / entry.ref / MANIFEST) != entry.sha256:
            raise RegistryError(f"{folder / entry.ref}: changed while it was signed: sign again when nobody writes")
        found[f"{entry.ref}/{MANIFEST}"] = (entry.bytes_manifest, entry.sha256)
        found |= {f"{entry.ref}/{file.path}": (file.size, file.sha256) for file in artifact.manifest.files}
    for path in progress(sorted(files_beside(folder))):
        found[path] = ((folder / path).stat().st_size, sha256_file(folder / path))
    index = read_limited(folder / INDEX, MAX_INDEX)
    found[INDEX] = (len(index), sha256_file(folder / INDEX))
    return {path: TargetFile(size, {"sha256": sha}, path) for path, (size, sha) in sorted(found.items())}


def _sign_targets(
    repository: Repository, files: Mapping[str, Any], notices: Mapping[str, Any] | None, signers: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Sign the targets and their bins, as far as they changed: which, and who is still to sign."""
    from tuf.api.metadata import Delegations, SuccinctRoles, Targets

    root = repository.authority
    bins = root.unrecognized_fields.get(f"x-conceptguard-{BINS}", 0)
    before = repository.newest("targets")
    fields = dict(before.signed.unrecognized_fields) if before else {}
    if notices is not None:
        fields[NOTICES] = dict(sorted(notices.items()))
    role = root.roles["targets"]
    # Bins are for many artifacts. What lies beside these is listed at the top, so that what is missing is seen as well.
    binned = {path: file for path, file in files.items() if bins and path.split("/")[0] not in BESIDE}
    first = {path: file for path, file in files.items() if path not in binned}
    top = Targets(targets=first, unrecognized_fields=fields)
    parts: dict[str, Any] = {}
    if bins:
        spread = SuccinctRoles(list(role.keyids), role.threshold, bins.bit_length() - 1, BINS)
        top.delegations = Delegations({k: root.get_key(k) for k in role.keyids}, succinct_roles=spread)
        parts = {name: Targets(targets={}) for name in spread.get_roles()}
        for path, file in binned.items():
            parts[spread.get_role_for_target(path)].targets[path] = file
    changed, missing = [], []
    for name, signed in [*parts.items(), ("targets", top)]:
        waiting = _sign_one(repository, name, signed, top if name in parts else root, signers)
        if waiting is not None:
            changed.append(name)
            missing += waiting
    return changed, sorted(set(missing))


def _sign_one(
    repository: Repository, role: str, signed: Any, delegator: Any, signers: Mapping[str, Any]
) -> list[str] | None:
    """Sign one role's next version; None where the one before still says the same, long enough."""
    from conceptguard.registry.signed.repository import _said

    before = repository.newest(role)
    if before is not None:
        signed.version = before.signed.version
        if _said(signed) == _said(before.signed) and repository.fresh(role, before, delegator):
            return None
        signed.version += 1
    signed.expires = repository.expiry(role)
    return repository.endorse(role, signed, delegator, signers)


def _sign_rest(repository: Repository, changed: list[str], signers: Mapping[str, Any]) -> list[str]:
    """The snapshot of the newest targets, where it changed, and a new timestamp."""
    from tuf.api.metadata import MetaFile, Snapshot, Timestamp

    root = repository.authority

    def told(role: str) -> Any:
        version = repository.newest(role).signed.version
        path = repository.path(role, repository.number(role, version))
        return MetaFile(version, path.stat().st_size, {"sha256": sha256_file(path)})

    bins = root.unrecognized_fields.get(f"x-conceptguard-{BINS}", 0)
    width = len(f"{bins - 1:x}")
    roles = ["targets", *(f"{BINS}-{number:0{width}x}" for number in range(bins))]
    snapshot = Snapshot(meta={f"{role}.json": told(role) for role in roles})
    waiting = _sign_one(repository, "snapshot", snapshot, root, signers)
    if waiting is not None:
        changed.append("snapshot")
    if waiting:
        return waiting
    before = repository.newest("timestamp")
    timestamp = Timestamp(snapshot_meta=told("snapshot"), expires=repository.expiry("timestamp"))
    timestamp.version = before.signed.version + 1 if before else 1
    changed.append("timestamp")
    if not repository.counts_before(["targets", "snapshot"]):
        repository.publish_root()  # the old keys are gone: readers are to know of the new ones first
    missing = repository.endorse("timestamp", timestamp, root, signers)
    if not missing:
        repository.publish_root()
    return missing


def _copy(repository: Repository, files: Mapping[str, Any]) -> None:
    """Every target under the name that carries its hash, as a hard link where the disk has them."""
    for path, file in files.items():
        target = repository.folder / TARGETS / served_path(path, file.hashes["sha256"])
        if not target.is_file() or sha256_file(target) != file.hashes["sha256"]:
            place(repository.folder / path, target)


def _clean(repository: Repository) -> None:
    """Away with metadata of long ago, and with copies of files that none of the kept metadata lists."""
    bins = sorted({path.name.split(".")[1] for path in (repository.folder / METADATA).glob(f"*.{BINS}-*.json")})
    repository.prune(["snapshot", "targets", *bins])
    listed = {
        served_path(path, file.hashes["sha256"])
        for role in ("targets", *bins)
        for metadata in repository.kept(role)
        for path, file in metadata.signed.targets.items()
    }
    home = repository.folder / TARGETS
    for path in sorted(home.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(home).as_posix() not in listed:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _report(repository: Repository, artifacts: int, changed: list[str], missing: list[str]) -> Signed:
    newest = {role: repository.newest(role) for role in ("root", "targets", "snapshot", "timestamp")}
    expires = {role: clock.written(one.signed.expires) for role, one in newest.items() if one is not None}
    first = read_limited(repository.path("root", repository.root.signed.version), MAX_TARGETS)
    return Signed(artifacts, expires, changed, missing, fingerprint(first))
