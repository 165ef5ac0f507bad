"""Exchanging keys of a signed registry, and taking artifacts back."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conceptguard.errors import RegistryError
from conceptguard.files.atomic import locked
from conceptguard.files.paths import MANIFEST, is_ref
from conceptguard.registry.signed import clock
from conceptguard.registry.signed.keys import check_outside, load_signers, new_key
from conceptguard.registry.signed.layout import NOTICES, owner
from conceptguard.registry.signed.publish import Progress, Signed, sign
from conceptguard.registry.signed.repository import Repository
from conceptguard.registry.signed.view import Notice, read_notices

# Snapshot and timestamp share a key: it lies where signing runs by itself.
ROLES = {"root": ["root"], "targets": ["targets"], "online": ["snapshot", "timestamp"]}


def rotate(
    folder: Path, role: str, keys: Sequence[Path], *, old: str = "", key: Any = None, add: bool = False,
    threshold: int | None = None, named: str = "", progress: Progress = iter,
) -> Signed:  # fmt: skip
    """Put a new key in a role's old one's place, and sign anew what the old one had signed.

    old: whose key goes, by its owner's name or the beginning of its id; needed where a role has several. key: the new
    one (see ``keys``); by default one is made in the first folder of ``keys``. add: nothing is taken out. threshold:
    how many are to sign from now on. A root counts once enough of the old root's keys and of its own have signed, and
    is published once the new keys have signed the rest: where some are elsewhere it waits in `metadata/staged`, and the
    same command there adds theirs. Raises RegistryError.
    """
    if role not in ROLES:
        raise RegistryError(f"no role {role!r}: rotate {', '.join(ROLES)}")
    for one in keys:
        check_outside(one, folder)
    repository = Repository(folder)
    signers = load_signers(keys)
    before = repository.root.signed
    root = copy.deepcopy(before)
    with locked(folder):
        waits = repository.waiting("root")
        if waits is not None and waits.signed.version == before.version + 1:
            root = copy.deepcopy(waits.signed)
        else:
            root.version += 1
            root.expires = repository.expiry("root")
        # What waits may be this very exchange, which takes signatures, or another one, to which this is added.
        if all(root.roles[one].to_dict() == before.roles[one].to_dict() for one in ROLES[role]):
            _exchange(root, role, keys, old, key, add, threshold, named)
            signers = load_signers(keys)
        missing = repository.stage_root(root, signers)
    if missing:
        return Signed(0, {"root": clock.written(root.expires)}, [], missing, "")
    return sign(folder, keys, progress=progress)


def _exchange(
    root: Any, role: str, keys: Sequence[Path], old: str, key: Any, add: bool, threshold: int | None, named: str
) -> None:
    gone = None if add else _old(root, ROLES[role][0], old)
    if key is None:
        name = named or (owner(root.keys[gone]) if gone else role)
        key = new_key(_free(keys[0], role), name)
    for one in ROLES[role]:
        if gone is not None:
            root.revoke_key(gone, one)
        root.add_key(key, one)
        if threshold is not None:
            root.roles[one].threshold = threshold
        if not 1 <= root.roles[one].threshold <= len(root.roles[one].keyids):
            raise RegistryError(
                f"{role}: a threshold of {root.roles[one].threshold} of {len(root.roles[one].keyids)} keys"
            )


def _old(root: Any, role: str, old: str) -> str:
    ids = list(root.roles[role].keyids)
    fitting = [i for i in ids if not old or owner(root.keys[i]) == old or (len(old) > 5 and i.startswith(old))]
    if len(fitting) == 1:
        return str(fitting[0])
    there = ", ".join(f"{owner(root.keys[i])} ({i[:12]})" for i in ids)
    raise RegistryError(f"which key of {role} goes? Say --old NAME; there are: {there}")


def _free(folder: Path, role: str) -> Path:
    return next(path for n in range(1, 10_000) if not (path := folder / f"{role}-{n}.pem").exists())


def revoke(
    folder: Path, ref: str, keys: Sequence[Path], *, reason: str = "", expires: str = "", successor: str = "",
    undo: bool = False, progress: Progress = iter,
) -> Signed:  # fmt: skip
    """Say of an artifact that it must not be used any more, or only until a date, and sign that.

    It is said of the manifest that is listed now: a new version under the same reference is not meant. Raises
    RegistryError for a reference that is not signed.
    """
    repository = Repository(folder)
    targets = repository.newest("targets")
    if targets is None:
        raise RegistryError(f"{folder}: nothing is signed: `conceptguard sign {folder}`")
    notices = read_notices(targets.signed.unrecognized_fields.get(NOTICES), str(folder))
    if undo:
        if ref not in notices:
            raise RegistryError(f"{ref}: nothing was said of it: notices are on {', '.join(notices) or 'none'}")
        del notices[ref]
    else:
        if bool(reason) == bool(expires):
            raise RegistryError("say why with --reason, or until when with --expires")
        if expires:
            clock.moment(expires)
        if successor and not is_ref(successor):
            raise RegistryError(f"{successor[:80]!r}: name the successor in full, family/method/name")
        notices[ref] = Notice(_signed_manifest(repository, ref), reason, expires, successor)
    said = {name: {k: text for k, text in asdict(one).items() if text} for name, one in notices.items()}
    return sign(folder, keys, notices=said, progress=progress)


def _signed_manifest(repository: Repository, ref: str) -> str:
    for metadata in _parts(repository):
        target = metadata.signed.targets.get(f"{ref}/{MANIFEST}")
        if target is not None:
            return str(target.hashes["sha256"])
    raise RegistryError(f"{ref}: not signed in {repository.folder}: name it in full, see `conceptguard list`")


def _parts(repository: Repository) -> Iterator[Any]:
    top = repository.newest("targets")
    yield top
    delegations = top.signed.delegations
    if delegations is not None:
        for role in delegations.succinct_roles.get_roles():
            yield repository.newest(role)
