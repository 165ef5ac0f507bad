"""Making an artifact folder: weights first, manifest last, each file replaced at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptguard.errors import ArtifactError
from conceptguard.files.atomic import locked, write_bytes
from conceptguard.files.paths import MANIFEST, check_relative, slug
from conceptguard.registry.artifact import Artifact, open_artifact
from conceptguard.registry.manifest import Manifest, check_manifest

if TYPE_CHECKING:
    import torch


def write_artifact(
    folder: Path | str,
    manifest_fields: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    *,
    filename: str | None = None,
    metadata: Mapping[str, str] | None = None,
    pictures: Sequence[Path | str] = (),
) -> Artifact:
    """Write weights, pictures and manifest into `folder` and return the artifact.

    `manifest_fields` is a manifest without `files`; `name` defaults to the concept's. `filename` defaults to
    `<name>.safetensors`; no tensors, no weight file. Raises ArtifactError for a wrong manifest and for
    tensors that are not finite: such an artifact could never be loaded.
    """
    import safetensors.torch

    files: dict[str, bytes] = {}
    fields = with_name(manifest_fields)
    if tensors:
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
                raise ArtifactError(f"tensor {name!r} has NaN or infinite values: not written; make it again")
        kept = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        data = safetensors.torch.save(kept, metadata=dict(metadata) if metadata else None)
        files[filename or f"{fields['name']}.safetensors"] = _in_order(data)
    for picture in pictures:
        files[Path(picture).name] = Path(picture).read_bytes()
    return write_files(folder, fields, files)


def _in_order(data: bytes) -> bytes:
    """The same file with its metadata sorted: safetensors writes it in another order in every process, and equal
    artifacts are to have equal hashes.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if "__metadata__" not in header:
        return data
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def write_files(folder: Path | str, manifest_fields: Mapping[str, Any], files: Mapping[str, bytes]) -> Artifact:
    """The same from finished file contents, which are stored as they are. Raises ArtifactError for a wrong
    manifest.
    """
    folder = Path(folder)
    fields = with_name(manifest_fields)
    listed = [
        {"path": check_relative(p), "sha256": hashlib.sha256(d).hexdigest(), "size": len(d)} for p, d in files.items()
    ]
    manifest = check_manifest({**fields, "files": listed}, str(folder / MANIFEST))
    with locked(folder):
        older = _older(folder)
        for path, data in files.items():
            write_bytes(folder / path, data)
        write_bytes(folder / MANIFEST, manifest.to_yaml().encode())
        for file in older.files if older else []:
            if file.path not in files:
                (folder / file.path).unlink(missing_ok=True)
    return Artifact(manifest, folder)


def _older(folder: Path) -> Manifest | None:
    try:
        return open_artifact(folder).manifest
    except ArtifactError:
        return None


def with_name(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with `name` filled in from the concept, where it is missing."""
    fields = dict(fields)
    concept = fields.get("concept")
    if not fields.get("name") and isinstance(concept, Mapping):
        fields["name"] = slug(str(concept.get("name", "")))
    return fields
