"""From the tensors of any known file to low-rank terms under canonical layer names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from conceptguard.errors import ArtifactError
from conceptguard.formats.alpha import Alphas
from conceptguard.formats.edit import read_edit
from conceptguard.formats.forms import check_factors
from conceptguard.formats.keys import detect_format
from conceptguard.formats.lora import BaseWeights, Shapes, read_lora
from conceptguard.formats.names import Names, names_of

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.runtime.alike import Alike
    from conceptguard.runtime.lowrank import Factors

__all__ = ["detect_format", "read_artifact", "read_terms"]

MissingAlpha = Literal["rank", "common"]


class Artifact(Protocol):
    """What is read of an artifact of the registry."""

    manifest: Any

    def path(self, name: str) -> Path: ...

    def tensors(self) -> Mapping[str, Tensor]: ...

    def metadata(self) -> Mapping[str, str]: ...


def read_terms(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    layer_names: Iterable[str] | None,
    *,
    config: Mapping[str, Any] | None = None,
    alpha: float | None = None,
    base_weights: BaseWeights | None = None,
    missing_alpha: MissingAlpha = "rank",
) -> dict[str, Factors]:
    """Terms by canonical layer name: down [r, in] or [r, in, kh, kw], up [out, r] or [out, r, 1, 1], scale =
    alpha / r.

    Reads SPM, LoRA with all its spellings and the forms of LyCORIS, our own edits of what layers read, and UCE weights.
    For the last two, for DoRA and for OFT, `base_weights` gives the weight of a layer by its canonical name.
    `layer_names` are those of the base model, best with their shapes (a mapping to shapes or to modules); None takes
    dotted names at their word. `config` is a peft `adapter_config.json`, `alpha` overrides what the file does not say.
    `missing_alpha` says what a layer without an alpha has in a file where others have one: "rank", as for kohya and
    ComfyUI, so that its scale is 1; "common", the most frequent one, as for diffusers.

    Raises BaseMismatch for a layer that the base does not have, ArtifactError for anything that is not made
    of terms.
    """
    kind = detect_format(tensors)
    names = names_of(layer_names)
    if kind == "text_encoder":
        raise ArtifactError("the file holds a whole text encoder, not terms: import it with `--as text_encoder`")
    if kind == "beside":
        raise ArtifactError("the file holds terms beside a language model's layers: name its own method in the policy")
    if kind == "edit":
        return read_edit(tensors, metadata, names, base_weights)
    if kind == "shared":
        return _read_shared(tensors, names)
    if kind == "uce":
        from conceptguard.formats.uce import read_uce

        return read_uce(tensors, names, base_weights)
    alphas = Alphas(metadata, config, alpha, common=missing_alpha == "common")
    return read_lora(tensors, names, alphas, shapes_of(layer_names), base_weights)


def read_artifact(
    artifact: Artifact,
    layer_names: Iterable[str] | None,
    *,
    base_weights: BaseWeights | None = None,
    missing_alpha: MissingAlpha = "rank",
) -> Mapping[str, Factors]:
    """`read_terms` of an artifact, with the peft configuration that lies beside its weights."""
    config = None
    for file in artifact.manifest.files:
        if file.path.rpartition("/")[2] == "adapter_config.json":
            config = read_config(artifact.path(file.path))
    tensors, metadata = artifact.tensors(), artifact.metadata()
    if config is None and layer_names is not None and (alike := _alike(tensors, metadata, layer_names)) is not None:
        return alike
    return read_terms(
        tensors,
        metadata,
        layer_names,
        config=config,
        base_weights=base_weights,
        missing_alpha=missing_alpha,
    )


def _alike(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], layers: Iterable[str]) -> Alike | None:
    """A plain file's terms, by a layout that is found once while a policy is attached; None for other files."""
    from conceptguard.formats.alike import layout_of, read_alike
    from conceptguard.runtime.alike import Flat
    from conceptguard.runtime.once import once

    if not isinstance(tensors, Flat):
        return None

    def find() -> tuple[Any, Any]:
        return layers, layout_of(tensors, names_of(layers), shapes_of(layers))

    _, layout = once(tensors.slots, ("layout", id(layers)), find)  # the answer holds the layers, whose id it goes by
    return read_alike(tensors, metadata, layout) if layout else None


def read_config(path: Path) -> dict[str, Any]:
    """A JSON configuration of at most 1 MiB. Raises ArtifactError."""
    from conceptguard.files.atomic import read_limited

    try:
        fields = json.loads(read_limited(path, 1 << 20, ArtifactError))
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ArtifactError(f"{path}: not a JSON mapping: put the right configuration beside the weights")
    return fields


def shapes_of(layers: Iterable[str] | None) -> Shapes:
    """A layer's weight shape by name, where `layers` is a mapping to shapes or to modules; None where it is not."""
    from conceptguard.runtime.lowrank import layer_shape

    if not isinstance(layers, Mapping):
        return lambda name: None

    def shape(name: str) -> tuple[int, ...]:
        one = layers[name]
        return tuple(one) if isinstance(one, (tuple, list)) else layer_shape(one)

    return shape


def _read_shared(tensors: Mapping[str, Tensor], names: Names) -> dict[str, Factors]:
    """Edits as they were written first, with every layer's ``up``."""
    from conceptguard.runtime.lowrank import Factors

    shared = tensors["shared.down"]
    terms = {}
    for key, up in tensors.items():
        # A layer that reads something else than the others has its own `<layer>.down`.
        if key == "shared.down" or (key.endswith(".down") and f"{key.removesuffix('.down')}.up" in tensors):
            continue
        if not key.endswith(".up"):
            raise ArtifactError(f"tensor {key[:160]!r} has no place beside `shared.down`: make the artifact again")
        written = key.removesuffix(".up")
        layer, down = names.find(written), tensors.get(f"{written}.down", shared)
        check_factors(layer, down, up)
        terms[layer] = Factors(down, up, 1.0)
    if not terms:
        raise ArtifactError("`shared.down` stands alone, without any `<layer>.up`: make the artifact again")
    return terms
