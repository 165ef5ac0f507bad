"""A registry in a folder: `<family>/<method>/<name>/artifact.yaml`, an index beside them, models in
`models/`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from conceptguard.errors import ArtifactError, RegistryError
from conceptguard.files.atomic import TEMPORARY, explained, locked, read_limited, write_bytes
from conceptguard.files.paths import INDEX, MANIFEST, MAX_INDEX, is_name, is_ref, leads_out
from conceptguard.registry.cache import cache_folder
from conceptguard.registry.index import Entry, entries_by_line, entry_of
from conceptguard.registry.listing import Entries, Few, Listing
from conceptguard.registry.opening import LARGE, large_listing, open_index, sharded_listing, tables_of
from conceptguard.registry.places import APART
from conceptguard.registry.reindex import change_index, read_part, scan
from conceptguard.runtime.once import once

if TYPE_CHECKING:
    from conceptguard.registry.artifact import Artifact
    from conceptguard.registry.signed.view import View

# What tells a model that guards act on from one that judges: of diffusers, a change of one of these, of transformers, a
# classifier with examples, a GAN, a net over a graph.
_GENERATES = (
    "model_index.json", "sibling.json", "generation_config.json", "examples.yaml", "generator.json", "graph.json",
)  # fmt: skip
# Holds the reference that is being written; there afterwards only if the writer was killed.
_BUSY = ".busy"
_LOOKS = 4  # how often an index is read that is replaced while it is read
_NEXT_MANIFEST = f".next/{MANIFEST}"


class LocalSource:
    """One folder. `writable` says whether `add` and `remove` may touch it (the shipped one they may not); `packaged`,
    that it came with this package, which brings the root of its signatures.
    """

    def __init__(
        self, root: Path | str, *, writable: bool = True, name: str | None = None, packaged: bool = False
    ) -> None:
        self.root, self.writable, self.packaged = Path(root), writable, packaged
        self.name = name or str(self.root)

    def __repr__(self) -> str:
        return f"LocalSource({self.name!r})"

    def view(self) -> View | None:
        """What is signed here; None where nobody's signature counts. Asked once while a policy is attached, whose
        guards are all held to the same signatures. Raises RegistryError where it must verify, and does not.
        """
        from conceptguard.registry.signed.sources import view_of_folder

        return once(self, "view", partial(view_of_folder, self.root, packaged=self.packaged, name=self.name))

    def entries(self) -> Sequence[Entry]:
        """What the index lists; without an index, what the folders hold."""
        listing = self.listing()
        return listing.entries if isinstance(listing, Few) else Entries([listing])

    def listing(self) -> Listing:
        """The same to look through. Raises RegistryError for an index that is no good."""
        path, tables = self.root / INDEX, tables_of(cache_folder(), str(self.root.resolve()))
        for look in range(_LOOKS):
            if not path.is_file():
                return Few(scan(self.root, self.name)[0])
            if (one := path.stat()).st_size > LARGE and self._by_line(path):
                # Too long to be hashed each time that something is listed; what is loaded is read from its folder.
                state = f"{one.st_size} {one.st_mtime_ns} {one.st_ctime_ns} {one.st_ino}"
                return large_listing(lambda: path.open("rb"), self.name, tables, state)
            data = read_limited(path, MAX_INDEX)
            opened = open_index(data, self.name, tables)
            if opened.listing is not None:
                return opened.listing
            shards = opened.shards
            assert shards is not None
            part = partial(read_part, self.root, shards, source=self.name)
            try:
                return sharded_listing(shards, part, self.name, tables)
            except RegistryError:
                # A writer took the shards of two versions ago away; or this one is no good.
                if look == _LOOKS - 1 or not path.is_file() or read_limited(path, MAX_INDEX) == data:
                    raise
        raise AssertionError("unreachable")

    def _by_line(self, path: Path) -> bool:
        with path.open("rb") as lines:
            return entries_by_line(lines, self.name) is not None

    def has(self, ref: str) -> bool:
        """Whether a full reference has a manifest here, sound or not."""
        return is_ref(ref) and any(os.path.isfile(f"{self.root}/{ref}/{place}") for place in (MANIFEST, _NEXT_MANIFEST))

    def find(self, ref: str) -> Entry | None:
        """The entry of a full reference, from the folder itself: an index that lags hides nothing."""
        if not self.has(ref):
            return None
        self._inside(ref)
        return entry_of(self.root / ref, self.name)

    def load(self, ref: str) -> Artifact:
        """Open the artifact of a full reference. Raises ArtifactError, also when the folder's name is not its own, or
        for another manifest than was signed; what was added since it was signed is unsigned.
        """
        artifact = self._open(ref)
        view = self.view()
        if view is not None and view.check(ref, artifact.sha256):
            artifact.signed_by = view.signed_by
        return artifact

    def _open(self, ref: str) -> Artifact:
        from conceptguard.registry.artifact import open_artifact

        self._inside(ref)
        artifact = open_artifact(self.root / ref)
        if artifact.ref != ref:
            raise ArtifactError(
                f"{self.root / ref}: its manifest speaks of {artifact.ref!r}: move it with `conceptguard add`"
            )
        return artifact

    def pull(self, ref: str) -> Artifact:
        """The same as `load`: it is here already."""
        return self.load(ref)

    def _inside(self, ref: str) -> None:
        if not is_ref(ref) or leads_out(self.root, ref):
            raise ArtifactError(
                f"{self.root / ref}: a link that leads out of the registry: put the folder itself there"
            )

    def model(self, name: str) -> Path | None:
        """The folder of an embedded model, if it is here. Raises RegistryError for another one than was signed; what
        was added to a folder since it was signed is unsigned, but for the shipped one, whose models must be signed.
        """
        folder = self.root / "models" / name
        if not is_name(name) or not any((folder / mark).is_file() for mark in _GENERATES):
            return None
        view = self.view()
        if view is not None and (self.packaged or any(path.startswith(f"models/{name}/") for path in view.beside)):
            from conceptguard.registry.signed.beside import vouch

            vouch(view, self.root, f"models/{name}")
        return folder

    def apart(self) -> set[str]:
        """Names of models of this package's registry that travel in another distribution, which is not installed."""
        return {name for name in APART if self.packaged and not (self.root / "models" / name).exists()}

    def models(self) -> list[str]:
        """Names of the embedded models."""
        return sorted(path.parent.name for mark in _GENERATES for path in self.root.glob(f"models/*/{mark}"))

    def add(self, artifact: Artifact) -> Artifact:
        """Copy a verified artifact in, replacing one of the same reference, and list it. Whoever reads meanwhile, or
        after this was cut short, meets the old one or the new one. Raises ArtifactError, RegistryError.
        """
        from conceptguard.registry.write import write_files

        artifact.verify()
        target = self.root / artifact.ref
        with self._writing(artifact.ref):
            if not (target.exists() and target.samefile(artifact.folder)):
                files = {f.path: artifact.path(f.path).read_bytes() for f in artifact.manifest.files}
                fields = artifact.manifest.model_dump(by_alias=True, exclude={"files", "binds"})
                written = write_files(target, fields, files)
                written.verify()
            self._list(entry_of(target))
        return self._open(artifact.ref)

    def remove(self, ref: str) -> None:
        """Delete an artifact and unlist it. The manifest goes first: from then on nobody opens the rest."""
        self._inside(ref)
        with self._writing(ref), explained(self.root / ref):
            self._list(None, ref)
            (self.root / ref / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(self.root / ref, ignore_errors=True)

    @contextmanager
    def _writing(self, ref: str) -> Iterator[None]:
        """One writer at a time, who first finishes what a killed one left, and leaves word of what is under way."""
        with locked(self.root):
            self._finish()
            write_bytes(self.root / _BUSY, ref.encode())
            try:
                yield
            finally:
                with explained(self.root / _BUSY):
                    (self.root / _BUSY).unlink(missing_ok=True)

    def _finish(self) -> None:
        for left in self.root.glob(f"{TEMPORARY}*"):
            left.unlink(missing_ok=True)
        if not (self.root / _BUSY).is_file():
            return
        ref = read_limited(self.root / _BUSY, 1000).decode("utf-8", "replace")
        if is_ref(ref) and (self.root / ref).is_dir():
            from conceptguard.registry.write import settle

            self._inside(ref)
            with locked(self.root / ref):
                settle(self.root / ref)
            if (self.root / ref / MANIFEST).is_file():
                self._list(entry_of(self.root / ref))
            else:  # a new one that was not finished, or an old one on its way out
                shutil.rmtree(self.root / ref, ignore_errors=True)
                self._list(None, ref)
        (self.root / _BUSY).unlink(missing_ok=True)

    def _list(self, entry: Entry | None, drop: str = "") -> None:
        """Put one entry into the index, or take one out; called with the lock held."""
        change_index(self.root, entry, drop)
