"""Artifacts for other programs: one safetensors file, or the folder of a text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from conceptguard.errors import ArtifactError
from conceptguard.files.atomic import write_bytes
from conceptguard.files.header import read_header
from conceptguard.files.paths import inside
from conceptguard.formats.beside import deltas
from conceptguard.formats.keys import detect_format
from conceptguard.formats.read import read_artifact
from conceptguard.formats.write import to_diffusers, to_kohya, to_uce
from conceptguard.registry.encoder_folder import export_encoder

if TYPE_CHECKING:
    from conceptguard.registry.artifact import Artifact

FORMATS = ("kohya", "diffusers", "uce", "text_encoder", "delta")


def export_artifact(artifact: Artifact, form: str, out: Path, *, model: Path | None = None) -> str:
    """Write `out` in one of FORMATS and return how: `as stored` or `converted`.

    A file that is stored in that format already is written byte for byte. `model`, a diffusers folder, is
    needed where names with underscores must be told apart, and for UCE and `text_encoder`, which hold whole weights.
    Of a text encoder `out` is a folder, see `export_encoder`. `delta` is what the weights of a language model gain,
    under their own names: `state_dict[name] += delta[name]`. Raises ArtifactError.
    """
    import safetensors.torch

    if form not in FORMATS:
        raise ArtifactError(f"no such format {form!r}: `--format` takes {', '.join(FORMATS)}")
    if form == "text_encoder":
        if model is None:
            raise ArtifactError(
                "a text encoder's folder holds whole weights: name the base model with `--model FOLDER`"
            )
        export_encoder(artifact, model, out)
        return "converted"
    if out.suffix.lower() != ".safetensors":
        raise ArtifactError(f"{out}: the file to write must end in .safetensors")
    weights = artifact.weights()
    if len(weights) != 1:
        raise ArtifactError(f"{artifact.ref}: {len(weights)} weight files: only artifacts with one can be exported")
    stored = detect_format(read_header(inside(artifact.folder, weights[0])).tensors)
    if stored == form:
        write_bytes(out, artifact.path(weights[0]).read_bytes())
        return "as stored"
    if stored == "text_encoder":
        raise ArtifactError(f"{artifact.ref}: a whole text encoder, not terms: copy {artifact.folder} as it is")
    if form == "delta" or stored == "beside":
        if form != "delta" or stored != "beside":
            raise ArtifactError(
                f"{artifact.ref}: `--format delta` is for terms beside a language model's layers, and these for it "
                f"alone: it has {'them' if stored == 'beside' else 'none'}"
            )
        weights_of = deltas(artifact.tensors(), artifact.metadata())
        write_bytes(out, safetensors.torch.save(weights_of, metadata={"concept": artifact.manifest.concept.name}))
        return "converted"
    layers, base_weights = None, None
    if model is not None:
        from conceptguard.formats.model import model_layers, model_weights

        layers, base_weights = model_layers(model), model_weights(model)
    terms = read_artifact(artifact, layers, base_weights=base_weights)
    kept = {"prompts": ",".join(artifact.manifest.concept.prompts), **artifact.metadata()}
    # What diffusers wrote about scales speaks of the tensors as they were, not of the new ones.
    kept.pop("lora_adapter_metadata", None)
    if form == "kohya":
        tensors, metadata = to_kohya(terms, kept)
    elif form == "diffusers":
        tensors, metadata = to_diffusers(terms, kept)
    else:
        if base_weights is None:
            raise ArtifactError("a UCE file holds whole weights: name the base model with `--model FOLDER`")
        tensors, metadata = to_uce(terms, base_weights, kept)
    write_bytes(out, safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, metadata=metadata))
    return "converted"
