"""A registry somewhere else: its index is read, its files go to the cache, and from then on no network is
needed.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from conceptguard.errors import ArtifactError, RegistryError
from conceptguard.files.atomic import read_limited, write_bytes
from conceptguard.files.paths import INDEX, MANIFEST, MAX_INDEX, MAX_MANIFEST
from conceptguard.registry.cache import cache_folder, keep, place
from conceptguard.registry.fetch import Unreachable, fetch
from conceptguard.registry.index import Entry
from conceptguard.registry.listing import Entries, Few, Listing
from conceptguard.registry.opening import Opened, open_index, sharded_listing, tables_of
from conceptguard.registry.patience import patiently
from conceptguard.registry.seen import Seen
from conceptguard.registry.settings import offline
from conceptguard.registry.shards import Shard, Shards, read_shard

if TYPE_CHECKING:
    from conceptguard.registry.artifact import Artifact
    from conceptguard.registry.signed.view import View

Result = TypeVar("Result")

_PARTS = 64  # shards of an index that are remembered
_AT_ONCE = 8  # shards that are asked for at a time


class RemoteSource:
    """One address: `https://…`, `hf://owner/name`, or anything else that fsspec reads.

    The index is asked for once per process. When nobody answers (or the user is offline by wish) the last one
    seen is used, with a warning on standard error. An index older than the last one seen, and an artifact older than
    the one fetched before, are refused. Where its root is trusted, nothing of it is used that is not signed.
    """

    writable = False

    def __init__(self, address: str, cache: Path | None = None) -> None:
        if address.startswith(("file:", "local:")) or "://" not in address:
            # What guards a folder (links, special files) is in LocalSource; nothing of it would hold here.
            raise RegistryError(f"{address}: a folder on this machine: give it as a path")
        self.address = address.rstrip("/")
        self.name = self.address
        self.cache = cache or cache_folder()
        self._index: Opened | None = None
        self._parts: dict[int, dict[str, Entry]] = {}
        self._view: tuple[View | None] | None = None
        kept = self.cache / "indexes" / hashlib.sha256(self.address.encode()).hexdigest()
        self._kept = kept.with_name(f"{kept.name}.json")
        self._tables = tables_of(self.cache, self.address)
        self._seen = Seen(kept.with_name(f"{kept.name}.seen.json"), self.address)

    def __repr__(self) -> str:
        return f"RemoteSource({self.name!r})"

    def view(self) -> View | None:
        """What is signed there; None where nobody's signature counts. Raises RegistryError where it must verify, and
        does not.
        """
        from conceptguard.registry.signed.sources import view_of_address

        if self._view is None:
            self._view = (view_of_address(self.address, self.cache),)
        return self._view[0]

    def entries(self) -> Sequence[Entry]:
        """What the remote index lists; RegistryError when there is neither an answer nor a kept index."""
        listing = self.listing()
        return listing.entries if isinstance(listing, Few) else Entries([listing])

    def listing(self) -> Listing:
        """The same to look through: of an index of shards, all of them are read. Raises RegistryError."""
        return self._newest(self._listing)

    def _listing(self, index: Opened) -> Listing:
        if index.listing is not None:
            return index.listing
        shards = index.shards
        assert shards is not None
        listing = sharded_listing(
            shards, lambda n: self._shard(shards, n), self.name, self._tables, lambda some: self._fetch(shards, some)
        )
        self._index = index._replace(listing=listing)
        return listing

    def find(self, ref: str) -> Entry | None:
        """The entry of a full reference; of an index of shards, one is read for it, and checked."""
        return self._newest(lambda index: self._find(index, ref))

    def _find(self, index: Opened, ref: str) -> Entry | None:
        shards = index.shards
        if shards is None:
            return self._listing(index).get(ref)
        number = shards.number(ref)
        if number not in self._parts:
            if len(self._parts) > _PARTS:
                self._parts.clear()
            self._parts[number] = {entry.ref: entry for entry in self._shard(shards, number)}
        return self._parts[number].get(ref)

    def _newest(self, read: Callable[[Opened], Result]) -> Result:
        """What `read` makes of the index; of a newer one where the shards of this one are there no more."""
        if self._index is None:
            self._index, self._parts = self._read_index(), {}
        try:
            return read(self._index)
        except RegistryError as cause:
            before = self._index.shards
            if before is None or isinstance(cause, Unreachable):
                raise
            self._index, self._parts = self._read_index(), {}
            if self._index.shards == before:
                raise
            return read(self._index)

    def _read_index(self) -> Opened:
        self._view = None  # what is signed now goes with the index of now
        kept, view = self._kept, self.view()
        target = view.target(INDEX) if view else None
        path = view.address(INDEX, target.sha256) if view and target else INDEX
        try:
            if why := offline():
                raise Unreachable(f"{self.address}: offline ({why})")
            data = fetch(f"{self.address}/{path}", target.length if target else MAX_INDEX)
            if view is not None:
                view.check_bytes(INDEX, data, hashlib.sha256(data).hexdigest())
            # What is signed is looked up in what was signed, and in no catalogue, which nobody vouches for.
            index = open_index(data, self.name, None if view else self._tables)
        except Unreachable as cause:
            if not kept.is_file():
                raise RegistryError(f"{cause}; no index of it was kept, so it cannot be used offline") from None
            print(f"conceptguard: {cause}; using the index kept from before", file=sys.stderr)
            data = read_limited(kept, MAX_INDEX)
            if view is not None:
                view.check_bytes(INDEX, data, hashlib.sha256(data).hexdigest())
            return open_index(data, self.name, None if view else self._tables)
        self._seen.check_serial(index.serial)
        try:
            write_bytes(kept, data)
            self._seen.note_serial(index.serial)
        except RegistryError as cause:  # what it lists can still be shown
            print(f"conceptguard: {cause}; the index of {self.address} is not kept", file=sys.stderr)
        return index

    def _shard(self, shards: Shards, number: int) -> list[Entry]:
        shard = shards.shards[number]
        return read_shard(self._shard_file(shard).read_bytes(), shards, number, self.name)

    def _shard_file(self, shard: Shard) -> Path:
        address = f"{self.address}/{shard.path}"
        try:
            return keep(self.cache, shard.sha256, shard.size, address, lambda into: fetch(address, shard.size, into))
        except ArtifactError as cause:  # it is the registry that is not as it should be
            raise RegistryError(str(cause)) from None

    def _fetch(self, shards: Shards, numbers: list[int]) -> None:
        """Ask for several shards at a time: one after the other, most of the time is spent waiting."""
        from concurrent.futures import ThreadPoolExecutor

        wanted = [shards.shards[number] for number in numbers]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                for _ in patiently(pool.map(self._shard_file, wanted), len(wanted), "fetching the index"):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

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
        signed_by = self._signed_by(entry)
        self._seen.check(entry)
        path = self._folder(entry) / MANIFEST
        if not path.is_file():
            return self.pull(ref)
        # Everything else in the folder is checked against the manifest, and the manifest against the index.
        if hashlib.sha256(read_limited(path, MAX_MANIFEST, ArtifactError)).hexdigest() != entry.sha256:
            raise ArtifactError(
                f"{path}: altered (its SHA-256 is not the index's): fetch it again with `conceptguard pull {ref}`"
            )
        artifact = open_artifact(self._folder(entry))
        if artifact.ref != entry.ref:
            return self.pull(ref)
        artifact.signed_by = signed_by
        return artifact

    def pull(self, ref: str) -> Artifact:
        """Fetch the artifact (not again what the cache has and is still right) and check all of it."""
        from conceptguard.registry.artifact import open_artifact
        from conceptguard.registry.manifest import parse_manifest

        entry = self.find(ref)
        if entry is None:
            raise RegistryError(f"{self.address}: does not list {ref!r}: see `conceptguard list`")
        signed_by = self._signed_by(entry)
        self._seen.check(entry)
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
        self._seen.note(entry)
        artifact.signed_by = signed_by
        return artifact

    def _signed_by(self, entry: Entry) -> str:
        """Whose signatures an artifact has. Raises ArtifactError, or RegistryError, where it must have them."""
        view = self.view()
        if view is None:
            return ""
        if not view.check(entry.ref, entry.sha256):
            raise RegistryError(f"{self.address}: {entry.ref} is listed, and not signed: not used")
        return view.signed_by

    def _folder(self, entry: Entry) -> Path:
        return self.cache / "artifacts" / entry.sha256

    def _blob(self, ref: str, path: str, sha256: str, size: int) -> Path:
        view, where = self.view(), f"{ref}/{path}"
        address = f"{self.address}/{quote(view.address(where, sha256) if view else where)}"
        return keep(self.cache, sha256, size, address, lambda handle: fetch(address, size, handle))

    def model(self, name: str) -> Path | None:
        """None: models are not fetched from registries; give a folder or a Hub id instead."""
        return None

    def models(self) -> list[str]:
        """None of them."""
        return []
