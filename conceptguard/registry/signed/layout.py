"""Where things are in a signed registry, and what its metadata says beyond TUF's own fields."""

from __future__ import annotations

import hashlib
from typing import Any

METADATA = "metadata"  # the folder of signed metadata
TARGETS = "targets"  # the folder of files under names that carry their hash, where snapshots are consistent
STAGED = "metadata/staged"  # signed by too few so far
BESIDE = ("models", "policies", "suites")  # folders that hold no artifacts, and are signed too

# In a key: whose it is. In the root: days that each role's signature counts. In the targets: what of an artifact counts
# no longer. TUF's clients keep fields that they do not know, and they are signed with the rest.
OWNER = "x-conceptguard-owner"
DAYS = "x-conceptguard-days"
NOTICES = "x-conceptguard-notices"
BINS = "bins"

MAX_ROOT = 512 * 1024
MAX_TIMESTAMP = 16 * 1024
MAX_SNAPSHOT = 8 * 1024 * 1024
MAX_TARGETS = 32 * 1024 * 1024
LIMITS = {"root": MAX_ROOT, "timestamp": MAX_TIMESTAMP, "snapshot": MAX_SNAPSHOT, "targets": MAX_TARGETS}
MAX_ROTATIONS = 64  # of roots in one go; the next call goes on from there


def file_name(role: str, version: int | None) -> str:
    """The file of a role's metadata; without a version where its newest has no number in its name."""
    return f"{role}.json" if version is None else f"{version}.{role}.json"


def served_path(path: str, sha256: str) -> str:
    """Where a target is served under consistent snapshots, seen from `targets/`."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{sha256}.{name}"


def fingerprint(root: bytes) -> str:
    """What people compare: SHA-256 of a root's bytes, in hexadecimal."""
    return hashlib.sha256(root).hexdigest()


def owner(key: Any) -> str:
    """Whose key it is, as the root says, or the beginning of its id."""
    named = key.unrecognized_fields.get(OWNER)
    return named if isinstance(named, str) and named.isprintable() and 0 < len(named) <= 80 else str(key.keyid)[:12]
