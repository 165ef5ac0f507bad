"""An artifact on disk: its manifest, and tensors that are checked before anyone gets them."""

from __future__ import annotations

import cmath
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from conceptguard.errors import ArtifactError
from conceptguard.files.atomic import LOCK, read_limited, read_whole, sha256_file, waiting
from conceptguard.files.header import Header, parse_header, read_header
from conceptguard.files.paths import MANIFEST, MAX_MANIFEST, inside
from conceptguard.registry.manifest import File, Manifest, parse_manifest

if TYPE_CHECKING:
    import torch

    from conceptguard.runtime.alike import Flat

Result = TypeVar("Result")

# How often an artifact of several files is read anew when it is replaced while it is read.
_LOOKS = 6
# The folder of a version that counts already, while its files take the places of the old ones.
NEXT = ".next"
# In a weight file's metadata: the reference of the artifact that it was made for.
OWNER = "conceptguard.ref"


class Artifact:
    """`manifest`, `folder`, `ref`; nothing of a weight file is read until `tensors`, `metadata`, `path` or
    `verify`.

    sha256: of the manifest's bytes, where they were read; signed_by: whose signatures it has, as its registry found
    """

    def __init__(self, manifest: Manifest, folder: Path, sha256: str = "") -> None:
        self.manifest, self.folder, self.sha256 = manifest, folder, sha256
        self.signed_by = ""
        self._said: dict[str, Mapping[str, str]] = {}  # by SHA-256, the metadata of files that were read whole

    def __repr__(self) -> str:
        return f"Artifact({self.ref!r})"

    @property
    def ref(self) -> str:
        """`family/method/name`, e.g. `emoji-sd/spm/cigarette`."""
        return self.manifest.ref

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.manifest.files)

    @property
    def picture(self) -> Path | None:
        """The contact sheet, when there is one."""
        return next((self.folder / file.path for file in self.manifest.files if file.path.endswith(".png")), None)

    def weights(self) -> list[str]:
        """Paths of the safetensors files, relative to `folder`."""
        return [file.path for file in self.manifest.files if file.path.endswith(".safetensors")]

    def tensors(self, file: str | None = None) -> Mapping[str, torch.Tensor]:
        """Tensors on the CPU, as stored, of one safetensors file or (by default) of all. Of a single file of one
        floating dtype they are a ``Flat``.

        Size, SHA-256, header and finiteness are checked first. Raises ArtifactError when anything is missing,
        altered, truncated, repeated between files, NaN or infinite.
        """
        for _ in range(_LOOKS):
            manifest = self.manifest
            result = self._tensors(file)
            # Replaced between two of its files: what was read mixes two versions.
            if self.manifest is manifest:
                return result
        raise ArtifactError(f"{self.folder}: replaced again and again while it was read: load it when that has ended")

    def _tensors(self, file: str | None) -> Mapping[str, torch.Tensor]:
        paths = [file] if file is not None else self.weights()
        if len(paths) == 1:
            return self._checked(paths[0])
        result: dict[str, torch.Tensor] = {}
        for path in paths:
            for name, tensor in self._checked(path).items():
                if name in result:
                    raise ArtifactError(f"{self.folder}: tensor {name!r} is in two files: ask for one file by its name")
                result[name] = tensor
        if not result:
            raise ArtifactError(
                f"{self.folder}: no tensors: {self.manifest.method} keeps none, or make the artifact again"
            )
        return result

    def metadata(self, file: str | None = None) -> dict[str, str]:
        """The safetensors metadata of one file (by default the first) without our own mark, from the header alone."""
        paths = self.weights()
        if file is None and not paths:
            return {}
        listed = self._listed(file or paths[0])
        if listed.sha256 in self._said:
            return {key: text for key, text in self._said[listed.sha256].items() if key != OWNER}
        # Of two versions the right one, which its hash tells; of one, the header alone is read.
        where = self._locate(listed) if self._waits() else inside(self.folder, listed.path)
        return {key: text for key, text in read_header(where).metadata.items() if key != OWNER}

    def path(self, file: str) -> Path:
        """Where a listed file lies, for a library that reads it itself; size and SHA-256 are checked."""
        return self._settled(lambda: self._locate(self._listed(file)))

    def _locate(self, file: File) -> Path:
        """Where the file with the listed size and SHA-256 lies."""
        return self._in_either(file, _checked_path)

    def verify(self) -> int:
        """Check every file wholly (weights: also header and finite values). Returns the bytes read; raises
        ArtifactError.
        """
        for file in self.manifest.files:
            if file.path.endswith(".safetensors"):
                self._checked(file.path)
            else:
                self.path(file.path)
        return self.size

    def _listed(self, path: str) -> File:
        for file in self.manifest.files:
            if file.path == path:
                return file
        known = ", ".join(file.path for file in self.manifest.files) or "none"
        raise ArtifactError(f"{self.folder}: no file {path[:120]!r} in the manifest: it lists {known}")

    def _checked(self, path: str) -> Mapping[str, torch.Tensor]:
        """The tensors of a listed file, and that they are this artifact's."""
        data, where = self._bytes(path), str(self.folder / path)
        header = parse_header(data, where)
        self._said[self._listed(path).sha256] = header.metadata
        # An imported file may be an exported one, under whatever name its importer gave.
        if not self.manifest.made.get("imported"):
            _check_owner(header.metadata, self.manifest, where)
        return read_tensors(data, where, header)

    def _bytes(self, path: str) -> bytearray:
        """The content of a listed file, size and SHA-256 checked on the very bytes that are returned."""
        return self._settled(lambda: self._in_either(self._listed(path), _checked_bytes))

    def _settled(self, read: Callable[[], Result]) -> Result:
        try:
            return read()
        except ArtifactError:
            if not (self.folder / LOCK).is_file():
                raise
        # Perhaps a writer is at work, under the folder's lock. With the lock in hand there is no in-between: what is
        # wrong then is wrong.
        with waiting(self.folder):
            self._follow()
            return read()

    def _waits(self) -> bool:
        return waits(self.folder)

    def _in_either(self, file: File, read: Callable[[Path, File], Result]) -> Result:
        """Read a file where it belongs or, while a version waits for its place, where that has it."""
        try:
            return read(inside(self.folder, file.path), file)
        except (ArtifactError, OSError) as cause:
            if not self._waits():
                raise _missing(cause, self.folder / file.path) from None
        try:
            return read(inside(self.folder / NEXT, file.path), file)
        except OSError as cause:  # it has just taken its place
            raise _missing(cause, self.folder / file.path) from None

    def _follow(self) -> None:
        """Take over a newer manifest, if it still speaks of the same guard."""
        now, mine = open_artifact(self.folder).manifest, self.manifest
        if (now.ref, now.concept, now.base) != (mine.ref, mine.concept, mine.base):
            raise ArtifactError(f"{self.folder}: replaced by another artifact while in use: load it again")
        if now != mine:
            if self.signed_by:
                raise ArtifactError(
                    f"{self.folder}: replaced while in use, and signed was the one before: load it again"
                )
            self.manifest = now


def open_artifact(folder: Path | str) -> Artifact:
    """Read and check `artifact.yaml` in `folder`; weights stay unread. Raises ArtifactError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder: give the folder that holds {MANIFEST}")
    data, path = read_manifest(folder)
    return Artifact(parse_manifest(data, str(path)), folder, hashlib.sha256(data).hexdigest())


def read_manifest(folder: Path) -> tuple[bytes, Path]:
    """The manifest that counts in a folder, and where it lies. Raises ArtifactError when there is none."""
    if waits(folder):
        try:
            path = inside(folder / NEXT, MANIFEST)
            return read_limited(path, MAX_MANIFEST, ArtifactError), path
        except ArtifactError:
            if waits(folder):
                raise
    path = inside(folder, MANIFEST)
    return read_limited(path, MAX_MANIFEST, ArtifactError), path


def waits(folder: Path) -> bool:
    """Whether a version waits for its place. A link is none: it might lead out."""
    return (folder / NEXT).is_dir() and not (folder / NEXT).is_symlink()


def _check_owner(metadata: Mapping[str, str], manifest: Manifest, where: str) -> None:
    """Raise ArtifactError where a weight file says that it was made for something else."""
    owner = metadata.get(OWNER)
    if owner is None and "prompts" in metadata:
        # SPM's files say what they erase.
        theirs = {part.strip() for part in metadata["prompts"].split(",") if part.strip()}
        ours = {" ".join(prompt.replace(",", " ").split()) for prompt in manifest.concept.prompts}
        if theirs and ours.isdisjoint(" ".join(one.split()) for one in theirs):
            owner = ", ".join(sorted(theirs))
    if owner not in (None, manifest.ref):
        raise ArtifactError(f"{where}: made for {owner[:200]!r}, not for {manifest.ref!r}: fetch or make it again")


def read_tensors(data: bytes | bytearray, where: str, header: Header | None = None) -> Mapping[str, torch.Tensor]:
    """Tensors from the bytes of a safetensors file; header and finite values checked, or ArtifactError. Of a bytearray
    they may be views."""
    header = header or parse_header(data, where)
    kinds = {slot.dtype for slot in header.tensors.values()}
    checked = _one_dtype(data, header, kinds.pop()) if len(kinds) == 1 else None
    if checked is not None:
        return checked
    tensors = _any_dtype(data, where)
    for name, tensor in tensors.items():
        if not _finite(tensor):
            raise ArtifactError(f"{where}: tensor {name!r} has NaN or infinite values: make the artifact again")
    return tensors


def _one_dtype(data: bytes | bytearray, header: Header, kind: str) -> Flat | None:
    """The file in one piece, checked for finite values in one pass; None when this cannot be done.

    Membranes have hundreds of tiny tensors, and a policy hundreds of membranes: one call per tensor is what
    takes the time.
    """
    import torch

    from conceptguard.runtime.alike import Flat

    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}.get(kind)
    if dtype is None or len(data) == header.start:
        return None
    start = header.start
    if not isinstance(data, bytearray) or start % dtype.itemsize:
        data, start = bytearray(memoryview(data)[start:]), 0
    flat = torch.frombuffer(data, dtype=dtype, offset=start)
    return Flat(flat, header.tensors) if _finite(flat) else None


def _any_dtype(data: bytes | bytearray, where: str) -> dict[str, torch.Tensor]:
    import safetensors
    import safetensors.torch

    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(bytes(data))
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as cause:
        raise ArtifactError(f"{where}: refused by safetensors ({_one_line(cause)}): fetch or make it again") from None
    return tensors


def _finite(tensor: torch.Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return True
    if tensor.element_size() == 1:
        tensor = tensor.float()
    # Whatever is not finite makes the sum so; finite numbers may as well, where they are large.
    return cmath.isfinite(tensor.sum().item()) or bool(tensor.isfinite().all())


def _check_size(path: Path, size: int, file: File) -> None:
    if size != file.size:
        kind = "truncated" if size < file.size else "longer than listed"
        raise ArtifactError(f"{path}: {kind} ({size:,} bytes, the manifest says {file.size:,}): fetch or make it again")


def _checked_path(path: Path, file: File) -> Path:
    _check_size(path, os.path.getsize(path), file)
    if sha256_file(path) != file.sha256:
        raise ArtifactError(_altered(path))
    return path


def _checked_bytes(path: Path, file: File) -> bytearray:
    _check_size(path, os.path.getsize(path), file)
    data = read_whole(path, file.size, ArtifactError)
    if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
        raise ArtifactError(_altered(path))
    return data


def _missing(cause: ArtifactError | OSError, path: Path) -> ArtifactError:
    return cause if isinstance(cause, ArtifactError) else ArtifactError(f"{path}: missing: fetch or make it again")


def _altered(path: Path) -> str:
    return f"{path}: altered (its SHA-256 is not the manifest's): fetch or make the artifact again"


def _one_line(cause: BaseException) -> str:
    return " ".join(str(cause).split())[:200]
