"""Published files become artifacts: stored byte for byte, with a manifest beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptguard.errors import ArtifactError
from conceptguard.files.atomic import sha256_file
from conceptguard.files.header import Header, read_header
from conceptguard.files.paths import PICKLES, is_name, pickle_message, slug
from conceptguard.formats.edit import layers_of_edit
from conceptguard.formats.keys import detect_format

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.registry.artifact import Artifact

KINDS = ("spm", "lora", "uce", "text_encoder")
_FITTING = {
    "spm": {"kohya"},
    "lora": {"kohya", "peft", "diffusers"},
    "uce": {"uce", "edit", "shared"},
    "text_encoder": {"text_encoder"},
}
_USUAL = {
    "kohya": "lora",
    "peft": "lora",
    "diffusers": "lora",
    "edit": "uce",
    "shared": "uce",
    "uce": "uce",
    "text_encoder": "text_encoder",
}
_MAIN = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors", "model.safetensors", "model.fp16.safetensors")
_BESIDE = ("adapter_config.json", "config.json")


def open_published(path: Path) -> Artifact:
    """An artifact for a published file where it lies, under the base family `unknown`: hosts compare layers
    alone.

    Raises ArtifactError for a pickle and for anything that is not a known format.
    """
    from conceptguard.registry.artifact import Artifact
    from conceptguard.registry.manifest import check_manifest

    weights, beside = published_files(path)
    header = read_header(weights)
    kind = _kind(weights, header)
    prompts = _prompts(header) or [_title(path)]
    folder = weights.parent
    files = [weights, *beside]
    manifest = check_manifest(
        {
            "name": slug(_title(path)) or "unnamed",
            "method": kind,
            "concept": {"name": prompts[0], "prompts": prompts},
            "base": {"family": "unknown"},
            "made": {"imported": weights.name},
            "files": [{"path": f.name, "sha256": sha256_file(f), "size": f.stat().st_size} for f in files],
        },
        str(path),
    )
    return Artifact(manifest, folder)


def import_artifact(
    path: Path,
    kind: str,
    into: Path,
    *,
    base: str,
    concept: str = "",
    prompts: Sequence[str] = (),
    replacement: str = "",
    model: Path | None = None,
    name: str = "",
    licence: str = "",
) -> Artifact:
    """Store a published file (or folder) under `into`/<family>/<method>/<name>, unchanged, and return the
    artifact.

    `base` is the family; with `model` (a diffusers folder) its fingerprint is written as well and every layer
    of the file must be in it, with the right shape. `concept` and `prompts` default to what the file's
    metadata says. Raises ArtifactError or BaseMismatch.
    """
    from conceptguard.registry.artifact import read_tensors
    from conceptguard.registry.fingerprint import fingerprint
    from conceptguard.registry.write import write_files

    if kind not in KINDS:
        raise ArtifactError(f"no such kind {kind!r}: `--as` takes {', '.join(KINDS)}")
    weights, beside = published_files(path)
    header = read_header(weights)
    found = detect_format(header.tensors)
    if found not in _FITTING[kind]:
        raise ArtifactError(f"{weights}: looks like {found}, not {kind}: use `--as {_USUAL[found]}`")
    prompts = list(prompts) or _prompts(header) or ([concept] if concept else [])
    if not prompts:
        raise ArtifactError(f"{weights}: says nothing of its concept: give it with `--concept NAME --prompts a,b`")
    concept = concept or prompts[0]
    name = name or slug(concept)
    if not is_name(base) or not is_name(name):
        wrong = base if not is_name(base) else name or concept
        raise ArtifactError(
            f"{wrong!r} cannot be a name: use lower-case letters, digits, '-', '_', '.' (`--name`, `--base`)"
        )
    data = weights.read_bytes()
    tensors = read_tensors(data, str(weights))
    print_of_base = ""
    if model is not None:
        from conceptguard.formats.model import model_layers

        layers = model_layers(model)
        print_of_base = fingerprint(layers)
        if _USUAL[found] == "lora":
            _check_terms(tensors, header, beside, layers, model)
        else:
            check_layers(header, found, layers)
    inner = "text_encoder/" if kind == "text_encoder" else ""
    files = {f"{inner}{weights.name if inner else f'{name}.safetensors'}": data}
    files |= {f"{inner}{file.name}": file.read_bytes() for file in beside}
    fields: dict[str, Any] = {
        "name": name,
        "method": kind,
        "concept": {"name": concept, "prompts": prompts, "replacement": replacement},
        "base": {"family": base, "fingerprint": print_of_base},
        "licence": licence,
        "made": {"imported": weights.name, "format": found, "sha256": hashlib.sha256(data).hexdigest()},
    }
    return write_files(into / base / kind / name, fields, files)


def _check_terms(
    tensors: Mapping[str, Tensor], header: Header, beside: Sequence[Path], layers: Mapping[str, Any], model: Path
) -> None:
    """Raise what reading would raise, and BaseMismatch where a term does not fit its layer."""
    from conceptguard.errors import BaseMismatch
    from conceptguard.formats.model import model_weights
    from conceptguard.formats.read import read_config, read_terms

    config = next((read_config(path) for path in beside if path.name == "adapter_config.json"), None)
    terms = read_terms(tensors, header.metadata, layers, config=config, base_weights=model_weights(model))
    for name, (down, up, _) in terms.items():
        if (up.shape[0], *down.shape[1:]) != tuple(layers[name]):
            made_for = [up.shape[0], *down.shape[1:]]
            raise BaseMismatch(
                f"a term of the file is for a layer {made_for}, {name} is {list(layers[name])}: it is for another base"
            )


def check_layers(header: Header, found: str, layers: Mapping[str, tuple[int, ...]]) -> None:
    """Raise BaseMismatch unless every layer that an edit names is among `layers` and of a fitting shape."""
    from conceptguard.errors import BaseMismatch
    from conceptguard.formats.names import names_of

    if found not in ("edit", "shared", "uce"):
        return
    names = names_of(layers)
    if found == "edit":
        for written, stream in layers_of_edit(header.tensors, header.metadata).items():
            ours, slot = layers[names.find(written)], header.tensors.get(f"{stream}.edit.shift")
            if slot is None or len(ours) != 2 or slot.shape[1] > ours[1]:
                raise BaseMismatch(
                    f"layer {written} is {list(ours)}, which this edit is not for: it is for another base"
                )
        return
    for key, slot in header.tensors.items():
        if key == "shared.down":
            continue
        # In the shared form `up` belongs to a layer; in UCE's the weight itself does.
        ours = layers[names.find(key.removesuffix(".up").removesuffix(".weight"))]
        if (slot.shape[:1] != ours[:1]) if found == "shared" else (slot.shape != ours):
            raise BaseMismatch(
                f"tensor {key[:160]!r} has shape {list(slot.shape)}, the layer {list(ours)}: it is for another base"
            )


def published_files(path: Path) -> tuple[Path, list[Path]]:
    """(the safetensors file, configurations beside it) of a file or folder. Raises ArtifactError, for pickles
    by name.
    """
    if path.is_dir():
        for name in _MAIN:
            if (path / name).is_file():
                return path / name, [path / other for other in _BESIDE if (path / other).is_file()]
        files = sorted(path.glob("*.safetensors"))
        if len(files) == 1:
            return files[0], [path / other for other in _BESIDE if (path / other).is_file()]
        pickles = [one for one in sorted(path.iterdir()) if one.suffix.lower() in PICKLES]
        if pickles and not files:
            raise ArtifactError(pickle_message(str(pickles[0])))
        raise ArtifactError(f"{path}: {len(files)} safetensors files: give the one that is meant")
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file: check the path")
    if path.suffix.lower() in PICKLES:
        raise ArtifactError(pickle_message(str(path)))
    if path.suffix.lower() != ".safetensors":
        raise ArtifactError(f"{path}: not a safetensors file: only those are read here")
    beside = path.parent / "adapter_config.json"
    return path, [beside] if path.name == "adapter_model.safetensors" and beside.is_file() else []


def _kind(path: Path, header: Header) -> str:
    found = detect_format(header.tensors)
    # An SPM file says which prompts it erases; any other file in kohya's form is a LoRA.
    return "spm" if found == "kohya" and "prompts" in header.metadata else _USUAL[found]


def _prompts(header: Header) -> list[str]:
    return [part.strip() for part in header.metadata.get("prompts", "").split(",") if part.strip()]


def _title(path: Path) -> str:
    return path.stem.removesuffix("_last") or "unnamed"
