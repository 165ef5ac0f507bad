"""The metadata of a signed registry on its keeper's disk: what is newest, what is next, what waits for signatures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from conceptguard.errors import RegistryError
from conceptguard.files.atomic import explained, read_limited, write_bytes
from conceptguard.registry.signed import clock, faults
from conceptguard.registry.signed.keys import signer_of
from conceptguard.registry.signed.layout import DAYS, LIMITS, MAX_TARGETS, METADATA, STAGED, file_name, owner

_KEEP = 3  # versions, so that whoever reads an earlier state meanwhile finds all of it


class Repository:
    """One folder. Nothing of it is trusted for signing anew but what its own root vouches for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = self._versions("root")
        if not found:
            raise RegistryError(f"{folder}: not signed yet: begin with `conceptguard registry init {folder}`")
        self.root = self.read("root", found[-1])
        with faults.explained(str(folder)):
            self.root.signed.verify_delegate("root", self.root.signed_bytes, self.root.signatures)
        self.next = self._next()

    @property
    def authority(self) -> Any:
        """The root whose keys must sign: the next one, where it has its own signatures already."""
        return (self.next or self.root).signed

    def _next(self) -> Any:
        """The next root, once enough keys of the one before and of its own have signed it; None where none waits."""
        waits = self.waiting("root")
        if waits is None or waits.signed.version != self.root.signed.version + 1:
            return None
        return None if self._missing("root", waits, [self.root.signed, waits.signed]) else waits

    def waiting(self, role: str) -> Any:
        """What waits for signatures, or None."""
        path = self.folder / STAGED / file_name(role, None)
        return self._read(path) if path.is_file() else None

    def path(self, role: str, version: int | None) -> Path:
        """Where metadata lies."""
        return self.folder / METADATA / file_name(role, version)

    def _versions(self, role: str) -> list[int]:
        pattern = re.compile(rf"(\d{{1,9}})\.{re.escape(role)}\.json\Z")
        names = (path.name for path in (self.folder / METADATA).glob(f"*.{role}.json"))
        return sorted(int(found[1]) for name in names if (found := pattern.match(name)))

    def read(self, role: str, version: int | None) -> Any:
        """Metadata from its file, unverified. Raises RegistryError."""
        return self._read(self.path(role, version))

    def _read(self, path: Path) -> Any:
        from tuf.api.metadata import Metadata

        with faults.explained(str(path)):
            return Metadata.from_bytes(read_limited(path, MAX_TARGETS))

    def number(self, role: str, version: int) -> int | None:
        """The version as it stands in a file's name, if it does."""
        numbered = role == "root" or (self.root.signed.consistent_snapshot and role != "timestamp")
        return version if numbered else None

    def newest(self, role: str) -> Any:
        """The newest metadata of a role, or None. A writer that was killed may have left it unlisted."""
        if self.number(role, 1) is None:
            return self.read(role, None) if self.path(role, None).is_file() else None
        found = self._versions(role)
        return self.read(role, found[-1]) if found else None

    def days(self, role: str) -> int:
        """How long signatures of a role count."""
        return int(self.authority.unrecognized_fields[DAYS]["targets" if role.startswith("bins-") else role])

    def expiry(self, role: str) -> datetime:
        """When a signature that is made now ends to count."""
        return clock.now() + timedelta(days=self.days(role))

    def fresh(self, role: str, metadata: Any, delegator: Any) -> bool:
        """Whether metadata needs no new signature: today's keys signed it, and half of its time is left at least."""
        good = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        half = timedelta(days=self.days(role) / 2)
        return bool(good) and metadata.signed.expires - clock.now() >= half

    def endorse(self, role: str, signed: Any, delegator: Any, signers: Mapping[str, Any]) -> list[str]:
        """Sign, and write what has signatures enough; those who are still to sign otherwise, by their names.

        delegator: whose keys and threshold count. What waits is kept with the signatures that it has: whoever signs the
        same next adds to them. While keys are exchanged, the old ones sign as well where they are there, so that it
        counts for readers of both roots.
        """
        metadata = self._signed(role, signed, [delegator, *self._before(role)], signers)
        missing = self._missing(role, metadata, [delegator])
        data, limit = metadata.to_bytes(), LIMITS.get(role, MAX_TARGETS)
        if len(data) > limit:
            raise RegistryError(
                f"{role} would be {len(data):,} bytes, more than the {limit:,} that a reader takes: begin with more "
                "--bins, or split the registry"
            )
        staged = self.folder / STAGED / file_name(role, None)
        if missing:
            write_bytes(staged, data)
            return missing
        write_bytes(self.path(role, self.number(role, signed.version)), data)
        with explained(staged):
            staged.unlink(missing_ok=True)
        return []

    def _before(self, role: str) -> list[Any]:
        """The root that readers have, where another one is next; it says nothing of bins."""
        return [self.root.signed] if self.next is not None and role in self.root.signed.roles else []

    def _signed(self, role: str, signed: Any, delegators: Iterable[Any], signers: Mapping[str, Any]) -> Any:
        """Metadata with the signatures that it has, waiting, and those of the signers who are here."""
        from tuf.api.metadata import Metadata

        waits = self.waiting(role)
        metadata = waits if waits is not None and _said(waits.signed) == _said(signed) else Metadata(signed)
        for key in {k: one.get_key(k) for one in delegators for k in _allowed(one, role)}.values():
            if key.keyid not in metadata.signatures:
                signer = signer_of(key, signers)
                if signer is not None:
                    metadata.sign(signer, append=True)
        return metadata

    def _missing(self, role: str, metadata: Any, delegators: Iterable[Any]) -> list[str]:
        """Who is still to sign, by their names."""
        results = [one.get_verification_result(role, metadata.signed_bytes, metadata.signatures) for one in delegators]
        return sorted({owner(key) for result in results if not result for key in result.unsigned.values()})

    def stage_root(self, root: Any, signers: Mapping[str, Any]) -> list[str]:
        """Sign the next root, which waits until `publish_root`; who is still to sign it, by their names."""
        delegators = [self.root.signed, root]
        metadata = self._signed("root", root, delegators, signers)
        write_bytes(self.folder / STAGED / file_name("root", None), metadata.to_bytes())
        self.next = self._next()
        return self._missing("root", metadata, delegators)

    def counts_before(self, roles: Iterable[str]) -> bool:
        """Whether the newest metadata of some roles counts for readers of the root before the next one."""
        found = {role: self.newest(role) for role in roles}
        return not any(one is None or self._missing(role, one, [self.root.signed]) for role, one in found.items())

    def publish_root(self) -> None:
        """Put the next root, if there is one, where readers find it."""
        if self.next is not None:
            write_bytes(self.path("root", self.next.signed.version), self.next.to_bytes())
            self.root, self.next = self.next, None
            with explained(self.folder / STAGED):
                (self.folder / STAGED / file_name("root", None)).unlink(missing_ok=True)

    def prune(self, roles: Iterable[str]) -> None:
        """Delete versions that nobody reads any more; roots stay, since clients follow them one by one."""
        for role in roles:
            if self.number(role, 1) is None:
                continue
            for version in self._versions(role)[:-_KEEP]:
                with explained(self.path(role, version)):
                    self.path(role, version).unlink(missing_ok=True)

    def kept(self, role: str) -> list[Any]:
        """All versions of a role that are there."""
        if self.number(role, 1) is None:
            return [one for one in [self.newest(role)] if one is not None]
        return [self.read(role, version) for version in self._versions(role)]


def _allowed(delegator: Any, role: str) -> list[str]:
    return list(delegator.get_delegated_role(role).keyids)


def _said(signed: Any) -> dict[str, Any]:
    """What is signed, but for the time until when."""
    return {key: value for key, value in signed.to_dict().items() if key != "expires"}
