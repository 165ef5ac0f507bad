"""Making an artifact folder: whole beside the old one, then in its place; whoever reads meets one of them.

The new version is written into a folder of its own, which becomes `.next` in one step. From then on it counts, and its
files take the places of the old ones. Whatever ends the process on the way, the next writer goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptguard.errors import ArtifactError
from conceptguard.files.atomic import TEMPORARY, explained, locked, read_limited, sweep, write_bytes
from conceptguard.files.paths import MANIFEST, MAX_MANIFEST, check_relative, slug
from conceptguard.registry.artifact import NEXT, OWNER, Artifact
from conceptguard.registry.cache import place
from conceptguard.registry.manifest import bound, check_manifest, parse_manifest

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
    """Write weights, pictures and manifest into `folder` and return the artifact. The weights say whose they are.

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
        data = safetensors.torch.save(kept, metadata={**(metadata or {}), OWNER: _ref(fields)})
        files[filename or f"{fields['name']}.safetensors"] = _in_order(data)
    for picture in pictures:
        files[Path(picture).name] = Path(picture).read_bytes()
    return write_files(folder, fields, files)


def _ref(fields: Mapping[str, Any]) -> str:
    """The reference of a manifest to be, as far as its fields are there."""
    base = fields.get("base")
    family = base.get("family", "") if isinstance(base, Mapping) else ""
    return f"{family}/{fields.get('method', '')}/{fields.get('name', '')}"


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
    fields.pop("binds", None)
    manifest = bound(check_manifest({**fields, "files": listed}, str(folder / MANIFEST)))
    text = manifest.to_yaml().encode()
    if len(text) > MAX_MANIFEST:
        raise ArtifactError(f"{folder}: a manifest of {len(text):,} bytes, more than {MAX_MANIFEST:,}: say less in it")
    with locked(folder), explained(folder):
        settle(folder)
        stage = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder))
        try:
            for path, data in files.items():
                write_bytes(stage / path, data)
            write_bytes(stage / MANIFEST, text)
            os.chmod(stage, 0o755)
            os.rename(stage, folder / NEXT)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        settle(folder)
    return Artifact(manifest, folder)


def settle(folder: Path) -> None:
    """Bring a version that waits in `.next` to its place, and delete what was never finished. With the lock held."""
    waiting = folder / NEXT
    new = _listed(waiting)
    if new is not None:
        for file in _listed(folder) or []:
            if file not in new:
                (folder / file).unlink(missing_ok=True)
                _prune(folder, (folder / file).parent)
        for path in (*new, MANIFEST):
            place(waiting / path, folder / path)
    if waiting.is_dir():
        # In one step, so that nobody meets half of it.
        os.rename(waiting, folder / f"{TEMPORARY}{os.urandom(4).hex()}")
    sweep(folder)


def _listed(folder: Path) -> list[str] | None:
    """The files of the manifest in a folder; None where there is no good one."""
    try:
        data = read_limited(folder / MANIFEST, MAX_MANIFEST, ArtifactError)
        return [file.path for file in parse_manifest(data, str(folder)).files]
    except ArtifactError:
        return None


def _prune(folder: Path, inner: Path) -> None:
    """Delete `inner` and the folders above it, up to `folder`, as far as they are empty."""
    while inner != folder:
        try:
            inner.rmdir()
        except OSError:
            return
        inner = inner.parent


def with_name(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with `name` filled in from the concept, where it is missing."""
    fields = dict(fields)
    concept = fields.get("concept")
    if not fields.get("name") and isinstance(concept, Mapping):
        fields["name"] = slug(str(concept.get("name", "")))
    return fields
