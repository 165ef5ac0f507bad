"""What the signatures of one registry say, once they are verified: which bytes, by whom, and what counts no longer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from conceptguard.errors import ArtifactError, RegistryError, printable
from conceptguard.files.paths import MANIFEST, is_ref
from conceptguard.registry.signed import clock
from conceptguard.registry.signed.layout import BESIDE, TARGETS, served_path


class Target(NamedTuple):
    """The signed size in bytes and SHA-256 of one file."""

    length: int
    sha256: str


@dataclass(frozen=True)
class Notice:
    """What its publisher says of an artifact besides its bytes.

    sha256: of the manifest that is meant; revoked: why it must not be used; expires: until when it may be; successor:
    what to use instead
    """

    sha256: str
    revoked: str = ""
    expires: str = ""
    successor: str = ""


@dataclass(frozen=True)
class View:
    """One verified state of a registry.

    where: its address; by: whose signatures the targets have; expires: when the first of its roles does, None where
    that is not asked; target: gives what is signed of a path, None for a path that is not; consistent: whether files
    are served under names that carry their hash; beside: paths of signed policies, suites and models; mend: what to do
    about a file that is not what was signed
    """

    where: str
    by: tuple[str, ...]
    expires: datetime | None
    target: Callable[[str], Target | None]
    notices: dict[str, Notice] = field(default_factory=dict)
    consistent: bool = True
    beside: tuple[str, ...] = ()
    mend: str = "fetch it again; who keeps the registry signs changes with `conceptguard sign`"

    @property
    def signed_by(self) -> str:
        """Whose signatures they are, as one text."""
        return ", ".join(self.by)

    def knows(self, ref: str, sha256: str) -> bool:
        """Whether this very manifest, by its SHA-256, is signed."""
        target = self.target(f"{ref}/{MANIFEST}")
        return target is not None and target.sha256 == sha256

    def check(self, ref: str, sha256: str) -> bool:
        """Whether a manifest is signed; False for a reference that is not listed at all.

        Raises ArtifactError for other bytes than those that are signed, and for what was revoked or has expired;
        RegistryError once the signatures themselves have.
        """
        self.check_time()
        target = self.target(f"{ref}/{MANIFEST}")
        if target is None:
            return False
        if target.sha256 != sha256:
            raise ArtifactError(f"{ref}: {MANIFEST} is not what {self.signed_by} signed in {self.where}: {self.mend}")
        self.check_standing(ref, sha256)
        return True

    def check_time(self) -> None:
        """Raises RegistryError once the signatures have expired while the process ran."""
        if self.expires is not None and clock.now() >= self.expires:
            raise RegistryError(
                f"{self.where}: its signatures count until {clock.written(self.expires)}, and that has passed: go "
                "online, or ask its keeper to sign anew"
            )

    def check_standing(self, ref: str, sha256: str) -> None:
        """Raises ArtifactError for what was revoked or has expired."""
        notice = self.notices.get(ref)
        why = standing(notice, sha256)
        if notice is not None and why:
            instead = f"use {notice.successor} instead" if notice.successor else "take it out of the policy"
            raise ArtifactError(f"{ref}: {why}, says {self.signed_by} in {self.where}: {instead}")

    def check_bytes(self, path: str, data: bytes, sha256: str) -> None:
        """Raises RegistryError where a file that must be signed is not, or is another."""
        target = self.target(path)
        if target is None or target != (len(data), sha256):
            raise RegistryError(
                f"{self.where}: {path} is not what {self.signed_by} signed: not used; ask who keeps the registry"
            )

    def address(self, path: str, sha256: str) -> str:
        """The path to fetch a signed file from, relative to the registry's address."""
        return f"{TARGETS}/{served_path(path, sha256)}" if self.consistent else path


def beside(paths: Iterable[str]) -> tuple[str, ...]:
    """Those of some signed paths that are no artifact's."""
    return tuple(path for path in paths if path.split("/")[0] in BESIDE)


def standing(notice: Notice | None, sha256: str) -> str:
    """Why an artifact may not be used any more, or an empty text."""
    if notice is None or notice.sha256 != sha256:
        return ""
    if notice.revoked:
        return f"revoked ({notice.revoked})"
    if notice.expires and clock.now() >= clock.moment(notice.expires):
        return f"expired on {notice.expires}"
    return ""


def read_notices(data: Any, where: str) -> dict[str, Notice]:
    """Notices from the field of the targets. Raises RegistryError: what cannot be read might revoke something."""
    found = {}
    for ref, said in (data if isinstance(data, dict) else {"": data}).items() if data is not None else ():
        good = is_ref(ref) and isinstance(said, dict) and all(isinstance(text, str) for text in said.values())
        if not good or not set(said) <= set(Notice.__dataclass_fields__) or "sha256" not in said:
            raise RegistryError(f"{where}: a notice about {ref[:80]!r} that cannot be read: upgrade conceptguard")
        if said.get("expires"):
            clock.moment(said["expires"])
        found[ref] = Notice(**{key: " ".join(printable(text).split())[:400] for key, text in said.items()})
    return found
