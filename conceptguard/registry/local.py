"""A registry in a folder: `<family>/<method>/<name>/artifact.yaml`, an index beside them, models in
`models/`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from conceptguard.errors import ArtifactError, RegistryError
from conceptguard.files.atomic import locked, read_limited, write_bytes
from conceptguard.files.paths import INDEX, MANIFEST, MAX_INDEX, is_name, is_ref
from conceptguard.registry.index import Entry, entry_of, index_bytes, parse_index, scan

if TYPE_CHECKING:
    from conceptguard.registry.artifact import Artifact

# What tells a model to generate with, of diffusers or of transformers, from a classifier.
_GENERATES = ("model_index.json", "generation_config.json")


class LocalSource:
    """One folder. `writable` says whether `add` and `remove` may touch it (the shipped one they may not)."""

    def __init__(self, root: Path | str, *, writable: bool = True, name: str | None = None) -> None:
        self.root, self.writable = Path(root), writable
        self.name = name or str(self.root)

    def __repr__(self) -> str:
        return f"LocalSource({self.name!r})"

    def entries(self) -> list[Entry]:
        """What the index lists; without an index, what the folders hold."""
        path = self.root / INDEX
        if path.is_file():
            return parse_index(read_limited(path, MAX_INDEX), self.name)
        return scan(self.root, self.name)[0]

    def find(self, ref: str) -> Entry | None:
        """The entry of a full reference, from the folder itself: an index that lags hides nothing."""
        if not is_ref(ref) or not (self.root / ref / MANIFEST).is_file():
            return None
        self._inside(ref)
        return entry_of(self.root / ref, self.name)

    def load(self, ref: str) -> Artifact:
        """Open the artifact of a full reference. Raises ArtifactError, also when the folder's name is not its
        own.
        """
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
        if not is_ref(ref) or not (self.root / ref).resolve().is_relative_to(self.root.resolve()):
            raise ArtifactError(
                f"{self.root / ref}: a link that leads out of the registry: put the folder itself there"
            )

    def model(self, name: str) -> Path | None:
        """The folder of an embedded model, if it is here."""
        folder = self.root / "models" / name
        return folder if is_name(name) and any((folder / mark).is_file() for mark in _GENERATES) else None

    def models(self) -> list[str]:
        """Names of the embedded models."""
        return sorted(path.parent.name for mark in _GENERATES for path in self.root.glob(f"models/*/{mark}"))

    def add(self, artifact: Artifact) -> Artifact:
        """Copy a verified artifact in, replacing one of the same reference, and list it. Raises
        ArtifactError.
        """
        from conceptguard.files.paths import inside
        from conceptguard.registry.write import write_files

        artifact.verify()
        target = self.root / artifact.ref
        with locked(self.root):
            if not (target.exists() and target.samefile(artifact.folder)):
                files = {f.path: inside(artifact.folder, f.path).read_bytes() for f in artifact.manifest.files}
                fields = artifact.manifest.model_dump(by_alias=True, exclude={"files"})
                written = write_files(target, fields, files)
                written.verify()
            self._list(entry_of(target))
        return self.load(artifact.ref)

    def remove(self, ref: str) -> None:
        """Delete an artifact and unlist it. The manifest goes first: from then on nobody opens the rest."""
        self._inside(ref)
        with locked(self.root):
            self._list(None, ref)
            (self.root / ref / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(self.root / ref, ignore_errors=True)

    def _list(self, entry: Entry | None, drop: str = "") -> None:
        """Put one entry into the index, or take one out; called with the lock held."""
        drop = entry.ref if entry else drop
        try:
            entries = self.entries()
        except RegistryError:
            entries = scan(self.root, self.name)[0]
        kept = [one for one in entries if one.ref != drop]
        write_bytes(self.root / INDEX, index_bytes([*kept, entry] if entry else kept))
