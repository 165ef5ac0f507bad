"""Fetch the emoji packs: pinned versions, pinned hashes, and only icons.json is ever read out of them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

# Version and sha256 of the package file as npm delivers it.
PACKS = {
    "noto": ("1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "fluent-emoji-flat": ("1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
    "fluent-emoji-high-contrast": ("1.2.6", "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0"),
    "emojione-monotone": ("1.2.1", "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e"),
    # For the judge's object head only: no pixel of these reaches the generator.
    "twemoji": ("1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    "emojione": ("1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    "noto-v1": ("1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
}
LIMIT = 200_000_000  # bytes of an unpacked icons.json


class PackError(RuntimeError):
    """A pack cannot be had, or is not what was pinned."""


def fetched(package: str, version: str, digest: str, cache: Path) -> Path:
    """The file of an npm package, which is fetched where there is none. Raises PackError for another one."""
    file = cache / f"{package.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not file.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise PackError(f"npm is needed to fetch {package}, or put {file.name} into {cache}")
        cache.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", f"{package}@{version}", "--pack-destination", str(cache)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise PackError(f"npm pack failed for {package}: {done.stderr.strip()[-300:]}")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != digest:
        raise PackError(f"{file} is not the pinned file: sha256 {found}, expected {digest}. Delete it and run again.")
    return file


def load_pack(name: str, cache: Path) -> dict:
    """The icons.json of a pack."""
    return read_member(fetched(f"@iconify-json/{name}", *PACKS[name], cache), "package/icons.json")


def read_member(file: Path, name: str) -> dict:
    """JSON out of an archive, without unpacking anything onto the disk."""
    with tarfile.open(file, "r:gz") as archive:
        member = archive.getmember(name)
        if not member.isfile() or member.size > LIMIT:
            raise PackError(f"{file.name}: {name} is not a file of a sane size")
        stream = archive.extractfile(member)
        assert stream is not None
        return json.load(stream)


def load_packs(cache: Path) -> dict[str, dict]:
    return {name: load_pack(name, cache) for name in PACKS}
