"""A text encoder with an artifact's terms in its weights, as a folder that any pipeline loads in place of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from conceptguard.errors import ArtifactError
from conceptguard.files.atomic import explained, write_bytes
from conceptguard.formats.model import model_layers
from conceptguard.formats.read import read_artifact

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.registry.artifact import Artifact
    from conceptguard.runtime.lowrank import Factors

MAIN, SHARDS, HALF = "model.safetensors", "model-*-of-*.safetensors", "model.fp16.safetensors"


def export_encoder(artifact: Artifact, model: Path, out: Path) -> list[Path]:
    """Write ``out`` as transformers has a text encoder, config.json and model.safetensors, in the model's own dtype;
    for terms beside two encoders a folder in it for each. Gives the folders.

    model: a diffusers folder with the encoders as they were. Without a gate the encoder forgets whatever the prompt:
    what the artifact's gate leaves alone moves, too. Raises ArtifactError for terms beside anything else, and where
    ``out`` is there already; what is written is there as a whole or not at all.
    """
    terms = read_artifact(artifact, model_layers(model))
    by_encoder: dict[str, dict[str, Factors]] = {}
    for name, factors in terms.items():
        component, _, layer = name.partition(".")
        if not component.startswith("text_encoder"):
            raise ArtifactError(
                f"{artifact.ref}: has terms beside {component}, which no text encoder folder holds: export as diffusers"
            )
        by_encoder.setdefault(component, {})[layer] = factors
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(f"{out}: is there already: give a folder that is not")
    with explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            for component, own in by_encoder.items():
                _write(artifact, model / component, own, new if len(by_encoder) == 1 else new / component)
            os.chmod(new, 0o755)  # mkdtemp's are for one's own eyes
            os.replace(new, out)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
    return [out] if len(by_encoder) == 1 else [out / component for component in by_encoder]


def _write(artifact: Artifact, source: Path, terms: dict[str, Factors], folder: Path) -> None:
    import safetensors.torch

    tensors = _weights(source)
    for layer, (down, up, scale) in terms.items():
        key = f"{layer}.weight"
        weight = tensors[key]
        tensors[key] = (weight.double() + scale * up.double() @ down.double()).to(weight.dtype)
    said = {"format": "pt", "conceptguard": artifact.ref, "prompts": ",".join(artifact.manifest.concept.prompts)}
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "model.safetensors", safetensors.torch.save(tensors, metadata=said))
    write_bytes(folder / "config.json", (source / "config.json").read_bytes())


def _weights(source: Path) -> dict[str, Tensor]:
    """All tensors of an encoder's folder, from one file or its shards, those in full precision where there are two."""
    import safetensors.torch

    files = [source / MAIN] if (source / MAIN).is_file() else sorted(source.glob(SHARDS))
    files = files or [file for file in [source / HALF] if file.is_file()]
    if not files or not (source / "config.json").is_file():
        raise ArtifactError(f"{source}: no config.json and {MAIN} in it: name the base model with `--model FOLDER`")
    return {key: tensor for file in files for key, tensor in safetensors.torch.load_file(file).items()}
