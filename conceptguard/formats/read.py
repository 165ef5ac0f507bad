"""From the tensors of any known file to low-rank terms under canonical layer names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from conceptguard.errors import ArtifactError
from conceptguard.formats.alpha import Alphas, checked
from conceptguard.formats.keys import detect_format, split_key
from conceptguard.formats.names import Names, names_of

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.runtime.lowrank import Factors

__all__ = ["base_weights_of", "detect_format", "read_artifact", "read_terms"]

BaseWeights = Callable[[str], "Tensor"]


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
) -> dict[str, Factors]:
    """Terms by canonical layer name: down [r, in] or [r, in, kh, kw], up [out, r] or [out, r, 1, 1], scale =
    alpha / r.

    Reads SPM, kohya, peft and diffusers LoRA, our own shared-input form, and UCE weights; for the last,
    `base_weights` gives the weight of a layer by its canonical name. `layer_names` are those of the base
    model; None takes dotted names at their word. `config` is a peft `adapter_config.json`, `alpha` overrides
    what the file does not say.

    Raises BaseMismatch for a layer that the base does not have, ArtifactError for anything that is not made
    of terms.
    """
    kind = detect_format(tensors)
    names = names_of(layer_names)
    if kind == "text_encoder":
        raise ArtifactError("the file holds a whole text encoder, not terms: import it with `--as text_encoder`")
    if kind == "shared":
        return _read_shared(tensors, names)
    if kind == "uce":
        from conceptguard.formats.uce import read_uce

        return read_uce(tensors, names, base_weights)
    return _read_lora(tensors, names, Alphas(metadata, config, alpha))


def read_artifact(
    artifact: Artifact, layer_names: Iterable[str] | None, *, base_weights: BaseWeights | None = None
) -> dict[str, Factors]:
    """`read_terms` of an artifact, with the peft configuration that lies beside its weights."""
    config = None
    for file in artifact.manifest.files:
        if Path(file.path).name == "adapter_config.json":
            config = read_config(artifact.path(file.path))
    return read_terms(artifact.tensors(), artifact.metadata(), layer_names, config=config, base_weights=base_weights)


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


def base_weights_of(modules: Mapping[str, Any]) -> BaseWeights:
    """Weights by canonical name from live modules (a LayerIndex), as `read_terms` takes them."""

    def weight(name: str) -> Tensor:
        module = modules[name]
        found: Tensor = getattr(module, "base_layer", module).weight
        return found.detach()

    return weight


def _read_lora(tensors: Mapping[str, Tensor], names: Names, alphas: Alphas) -> dict[str, Factors]:
    from conceptguard.runtime.lowrank import Factors

    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        split = split_key(key)
        if split is None:
            raise ArtifactError(f"tensor {key[:160]!r} is no part of a LoRA: the file is not one, or was altered")
        layer = names.find(split[0])
        mine = parts.setdefault(layer, {})
        if split[1] in mine:
            raise ArtifactError(f"layer {layer!r} has two tensors for `{split[1]}`: keep one adapter per file")
        mine[split[1]] = tensor
    terms = {}
    for layer, mine in parts.items():
        if "down" not in mine or "up" not in mine:
            lacks = "down" if "down" not in mine else "up"
            raise ArtifactError(f"layer {layer!r} has no `{lacks}` factor: truncated or altered; fetch it again")
        rank = check_factors(layer, mine["down"], mine["up"])
        if "alpha" in mine:
            if mine["alpha"].numel() != 1:
                raise ArtifactError(f"layer {layer!r}: alpha must be one number: make the file again")
            scale = checked(float(mine["alpha"]), layer) / rank
        else:
            scale = alphas.scale(layer, rank)
        terms[layer] = Factors(mine["down"], mine["up"], scale)
    return terms


def _read_shared(tensors: Mapping[str, Tensor], names: Names) -> dict[str, Factors]:
    from conceptguard.runtime.lowrank import Factors

    down = tensors["shared.down"]
    terms = {}
    for key, up in tensors.items():
        if key == "shared.down":
            continue
        if not key.endswith(".up"):
            raise ArtifactError(f"tensor {key[:160]!r} has no place beside `shared.down`: make the artifact again")
        layer = names.find(key.removesuffix(".up"))
        check_factors(layer, down, up)
        terms[layer] = Factors(down, up, 1.0)
    if not terms:
        raise ArtifactError("`shared.down` stands alone, without any `<layer>.up`: make the artifact again")
    return terms


def check_factors(layer: str, down: Tensor, up: Tensor) -> int:
    """The rank of a pair of factors. Raises ArtifactError when shapes or dtypes cannot be a term."""
    shapes = f"down {list(down.shape)}, up {list(up.shape)}"
    good = down.ndim == up.ndim and down.ndim in (2, 4) and down.shape[0] == up.shape[1] and down.shape[0] > 0
    if not good or tuple(up.shape[2:]) not in ((), (1, 1)):
        raise ArtifactError(f"layer {layer!r}: factors do not fit each other ({shapes}): make the file again")
    if not down.is_floating_point() or not up.is_floating_point():
        raise ArtifactError(f"layer {layer!r}: factors must be floating point, not {down.dtype} and {up.dtype}")
    return int(down.shape[0])
