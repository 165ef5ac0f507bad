"""A registry somewhere else: its index is read, its files go to the cache, and from then on no network is
needed.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from conceptguard.errors import ArtifactError, RegistryError
from conceptguard.files.atomic import read_limited, write_bytes
from conceptguard.files.paths import INDEX, MANIFEST, MAX_INDEX
from conceptguard.registry.cache import cache_folder, keep, place
from conceptguard.registry.fetch import Unreachable, fetch
from conceptguard.registry.index import Entry, parse_index

if TYPE_CHECKING:
    from conceptguard.registry.artifact import Artifact


class RemoteSource:
    """One address: `https://…`, `hf://owner/name`, or anything else that fsspec reads.

    The index is asked for once per process. When nobody answers (or CONCEPTGUARD_OFFLINE is set) the last one
    seen is used, with a warning on standard error.
    """

    writable = False

    def __init__(self, address: str, cache: Path | None = None) -> None:
        if address.startswith(("file:", "local:")) or "://" not in address:
            # What guards a folder (links, special files) is in LocalSource; nothing of it would hold here.
            raise RegistryError(f"{address}: a folder on this machine: give it as a path")
        self.address = address.rstrip("/")
        self.name = self.address
        self.cache = cache or cache_folder()
        self._entries: list[Entry] | None = None

    def __repr__(self) -> str:
        return f"RemoteSource({self.name!r})"

    def entries(self) -> list[Entry]:
        """What the remote index lists; RegistryError when there is neither an answer nor a kept index."""
        if self._entries is None:
            self._entries = self._read_index()
        return self._entries

    def _read_index(self) -> list[Entry]:
        kept = self.cache / "indexes" / f"{hashlib.sha256(self.address.encode()).hexdigest()}.json"
        try:
            if os.environ.get("CONCEPTGUARD_OFFLINE"):
                raise Unreachable(f"{self.address}: offline (CONCEPTGUARD_OFFLINE is set)")
            data = fetch(f"{self.address}/{INDEX}", MAX_INDEX)
            entries = parse_index(data, self.name)
        except Unreachable as cause:
            if not kept.is_file():
                raise RegistryError(f"{cause}; no index of it was kept, so it cannot be used offline") from None
            print(f"conceptguard: {cause}; using the index kept from before", file=sys.stderr)
            return parse_index(read_limited(kept, MAX_INDEX), self.name)
        write_bytes(kept, data)
        return entries

    def find(self, ref: str) -> Entry | None:
        """The entry of a full reference."""
        return next((entry for entry in self.entries() if entry.ref == ref), None)

    def pulled(self, ref: str) -> bool:
        """True when the artifact, as the index lists it now, is in the cache."""
        entry = self.find(ref)
        return entry is not None and (self._folder(entry) / MANIFEST).is_file()

    def load(self, ref: str) -> Artifact:
        """The artifact, from the cache or fetched into it. Raises ArtifactError or RegistryError."""
        from conceptguard.registry.artifact import open_artifact

        entry = self.find(ref)
        if entry is None:
            raise RegistryError(f"{self.address}: does not list {ref!r}: see `conceptguard list`")
        if not (self._folder(entry) / MANIFEST).is_file():
            return self.pull(ref)
        artifact = open_artifact(self._folder(entry))
        if artifact.ref != entry.ref:
            return self.pull(ref)
        return artifact

    def pull(self, ref: str) -> Artifact:
        """Fetch the artifact (not again what the cache has and is still right) and check all of it."""
        from conceptguard.registry.artifact import open_artifact
        from conceptguard.registry.manifest import parse_manifest

        entry = self.find(ref)
        if entry is None:
            raise RegistryError(f"{self.address}: does not list {ref!r}: see `conceptguard list`")
        blob = self._blob(entry.ref, MANIFEST, entry.sha256, entry.bytes_manifest)
        manifest = parse_manifest(blob.read_bytes(), f"{self.address}/{entry.ref}/{MANIFEST}")
        if manifest.ref != entry.ref:
            raise ArtifactError(
                f"{self.address}: the index says {entry.ref!r}, its manifest says {manifest.ref!r}: not used"
            )
        if sum(file.size for file in manifest.files) != entry.size:
            raise ArtifactError(f"{self.address}: {entry.ref}: sizes in index and manifest differ: not used")
        folder = self._folder(entry)
        for file in manifest.files:
            place(self._blob(entry.ref, file.path, file.sha256, file.size), folder / file.path)
        # The manifest comes last: a folder without one is not an artifact, whenever this is cut short.
        place(blob, folder / MANIFEST)
        artifact = open_artifact(folder)
        artifact.verify()
        return artifact

    def _folder(self, entry: Entry) -> Path:
        return self.cache / "artifacts" / entry.sha256

    def _blob(self, ref: str, path: str, sha256: str, size: int) -> Path:
        address = f"{self.address}/{quote(f'{ref}/{path}')}"
        return keep(self.cache, sha256, size, address, lambda handle: fetch(address, size, handle))

    def model(self, name: str) -> Path | None:
        """None: models are not fetched from registries; give a folder or a Hub id instead."""
        return None

    def models(self) -> list[str]:
        """None of them."""
        return []
