"""An artifact on disk: its manifest, and tensors that are checked before anyone gets them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from conceptguard.errors import ArtifactError
from conceptguard.files.atomic import LOCK, read_limited, sha256_file, waiting
from conceptguard.files.header import Header, parse_header, read_header
from conceptguard.files.paths import MANIFEST, MAX_MANIFEST, inside
from conceptguard.registry.manifest import File, Manifest, parse_manifest

if TYPE_CHECKING:
    import torch

# How often an artifact of several files is read anew when it is replaced while it is read.
_LOOKS = 6


class Artifact:
    """`manifest`, `folder`, `ref`; nothing of a weight file is read until `tensors`, `metadata`, `path` or
    `verify`.
    """

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self.manifest, self.folder = manifest, folder

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

    def tensors(self, file: str | None = None) -> dict[str, torch.Tensor]:
        """Tensors on the CPU, as stored, of one safetensors file or (by default) of all.

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

    def _tensors(self, file: str | None) -> dict[str, torch.Tensor]:
        result: dict[str, torch.Tensor] = {}
        for path in [file] if file is not None else self.weights():
            for name, tensor in read_tensors(self._bytes(path), str(self.folder / path)).items():
                if name in result:
                    raise ArtifactError(f"{self.folder}: tensor {name!r} is in two files: ask for one file by its name")
                result[name] = tensor
        if not result:
            raise ArtifactError(
                f"{self.folder}: no tensors: {self.manifest.method} keeps none, or make the artifact again"
            )
        return result

    def metadata(self, file: str | None = None) -> dict[str, str]:
        """The safetensors metadata of one file (by default the first), read from the header alone."""
        paths = self.weights()
        if file is None and not paths:
            return {}
        return dict(read_header(inside(self.folder, self._listed(file or paths[0]).path)).metadata)

    def path(self, file: str) -> Path:
        """Where a listed file lies, for a library that reads it itself; size and SHA-256 are checked."""
        listed = self._listed(file)
        path = inside(self.folder, listed.path)
        _check_size(path, os.path.getsize(path), listed)
        if sha256_file(path) != listed.sha256:
            raise ArtifactError(_altered(path))
        return path

    def verify(self) -> int:
        """Check every file wholly (weights: also header and finite values). Returns the bytes read; raises
        ArtifactError.
        """
        for file in self.manifest.files:
            if file.path.endswith(".safetensors"):
                read_tensors(self._bytes(file.path), str(self.folder / file.path))
            else:
                self.path(file.path)
        return self.size

    def _listed(self, path: str) -> File:
        for file in self.manifest.files:
            if file.path == path:
                return file
        known = ", ".join(file.path for file in self.manifest.files) or "none"
        raise ArtifactError(f"{self.folder}: no file {path[:120]!r} in the manifest: it lists {known}")

    def _bytes(self, path: str) -> bytes:
        """The content of a listed file, size and SHA-256 checked on the very bytes that are returned."""
        try:
            return self._read(path)
        except ArtifactError:
            if not (self.folder / LOCK).is_file():
                raise
        # Perhaps a writer is at work: it replaces weights first and the manifest last, under the folder's
        # lock. With the lock in hand there is no in-between: what is wrong then is wrong.
        with waiting(self.folder):
            self._follow()
            return self._read(path)

    def _read(self, path: str) -> bytes:
        file = self._listed(path)
        return _checked_bytes(inside(self.folder, file.path), file)

    def _follow(self) -> None:
        """Take over a newer manifest, if it still speaks of the same guard."""
        now, mine = open_artifact(self.folder).manifest, self.manifest
        if (now.ref, now.concept, now.base) != (mine.ref, mine.concept, mine.base):
            raise ArtifactError(f"{self.folder}: replaced by another artifact while in use: load it again")
        if now != mine:
            self.manifest = now


def open_artifact(folder: Path | str) -> Artifact:
    """Read and check `artifact.yaml` in `folder`; weights stay unread. Raises ArtifactError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder: give the folder that holds {MANIFEST}")
    path = inside(folder, MANIFEST)
    return Artifact(parse_manifest(read_limited(path, MAX_MANIFEST, ArtifactError), str(path)), folder)


def read_tensors(data: bytes, where: str) -> dict[str, torch.Tensor]:
    """Tensors from the bytes of a safetensors file; header and finite values checked, or ArtifactError."""
    header = parse_header(data, where)
    kinds = {slot.dtype for slot in header.tensors.values()}
    checked = _one_dtype(data, header, kinds.pop()) if len(kinds) == 1 else None
    if checked is not None:
        return checked
    tensors = _any_dtype(data, where)
    for name, tensor in tensors.items():
        if not _finite(tensor):
            raise ArtifactError(f"{where}: tensor {name!r} has NaN or infinite values: make the artifact again")
    return tensors


def _one_dtype(data: bytes, header: Header, kind: str) -> dict[str, torch.Tensor] | None:
    """Views into one copy of the file, checked for finite values in one pass; None when this cannot be done.

    Membranes have hundreds of tiny tensors, and a policy hundreds of membranes: one call per tensor is what
    takes the time.
    """
    import torch

    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}.get(kind)
    if dtype is None or len(data) == header.start:
        return None
    flat = torch.frombuffer(bytearray(memoryview(data)[header.start :]), dtype=dtype)
    if not _finite(flat):
        return None
    width = flat.element_size()
    return {
        name: flat[slot.begin // width : slot.end // width].view(slot.shape) for name, slot in header.tensors.items()
    }


def _any_dtype(data: bytes, where: str) -> dict[str, torch.Tensor]:
    import safetensors
    import safetensors.torch

    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as cause:
        raise ArtifactError(f"{where}: refused by safetensors ({_one_line(cause)}): fetch or make it again") from None
    return tensors


def _finite(tensor: torch.Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return True
    if tensor.element_size() == 1:
        tensor = tensor.float()
    return bool(tensor.isfinite().all())


def _check_size(path: Path, size: int, file: File) -> None:
    if size != file.size:
        kind = "truncated" if size < file.size else "longer than listed"
        raise ArtifactError(f"{path}: {kind} ({size:,} bytes, the manifest says {file.size:,}): fetch or make it again")


def _checked_bytes(path: Path, file: File) -> bytes:
    _check_size(path, os.path.getsize(path), file)
    data = read_limited(path, file.size, ArtifactError)
    if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
        raise ArtifactError(_altered(path))
    return data


def _altered(path: Path) -> str:
    return f"{path}: altered (its SHA-256 is not the manifest's): fetch or make the artifact again"


def _one_line(cause: BaseException) -> str:
    return " ".join(str(cause).split())[:200]
