"""Which policies a server guards its requests by: what its operator has set, read in every process of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ...errors import ConceptGuardError, PolicyError, meant, shown

ENFORCE, OFFER = "CONCEPTGUARD_ENFORCE", "CONCEPTGUARD_POLICIES"
NAMED = "conceptguard"  # what a request calls the policy that it wants in its extra arguments


class Policies(NamedTuple):
    """enforced: under which every request is, None for none; offered: those that a request may name, by their names."""

    enforced: str | None
    offered: Mapping[str, Path]

    def of(self, named: object) -> tuple[str, ...]:
        """The sources of those that act on a request; named: what it asked for, None for nothing.

        Raises PolicyError for a policy that nobody offers, and where a request is under none.
        """
        if named is None:
            if self.enforced is None:
                raise PolicyError(
                    f"this server guards a request by the policy that it names: give one as '{NAMED}' in extra_args "
                    f"(over HTTP in vllm_xargs): {', '.join(self.offered)}"
                )
            return (self.enforced,)
        if not isinstance(named, str) or named not in self.offered:
            hint = meant(
                str(named), self.offered, f"there are {', '.join(self.offered) or 'none that requests may name'}"
            )
            raise PolicyError(f"no policy '{shown(str(named))}': {hint}")
        own = str(self.offered[named])
        return (own,) if self.enforced is None else (self.enforced, own)


def policies() -> Policies:
    """From ``CONCEPTGUARD_ENFORCE``, a policy's file or name, and ``CONCEPTGUARD_POLICIES``, a folder of files.

    Raises ConceptGuardError where neither is set, or the folder holds none.
    """
    enforced, folder = os.environ.get(ENFORCE) or None, os.environ.get(OFFER)
    offered = {file.stem: file for file in sorted(Path(folder).expanduser().glob("*.yaml"))} if folder else {}
    if folder and not offered:
        raise ConceptGuardError(f"{OFFER}={folder}: no folder with policies (*.yaml)")
    if enforced is None and not offered:
        raise ConceptGuardError(
            f"no policy: set {ENFORCE} to one that every request is under (a file or a shipped one's name), {OFFER} to "
            "a folder of those that requests may name, or both"
        )
    return Policies(enforced, offered)
