"""Terms beside a language model's layers: their file, and the plain change of weights that they amount to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from conceptguard.errors import ArtifactError, BaseMismatch

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.runtime.lowrank import Factors

_DOWN, _UP, _CONSTANT = ".beside.down", ".beside.up", ".beside.constant"
TURNED = "turned"  # metadata: layers whose weight the model keeps as [in, out]


def is_beside(keys: Iterable[str]) -> bool:
    """Whether these are the tensors of such a file; others may lie among them."""
    return any(key.endswith(_DOWN) for key in keys)


def write_beside(
    terms: Mapping[str, Factors], turned: Collection[str] = (), constants: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata. turned: names of layers that keep their weight as [in, out], as GPT-2's do; constants: what
    is added to all that a module gives, [width] by its name."""
    tensors = {}
    for name, (down, up, scale) in terms.items():
        tensors[f"{name}{_DOWN}"] = down.float().cpu().contiguous()
        tensors[f"{name}{_UP}"] = (scale * up).float().cpu().contiguous()
    for name, constant in (constants or {}).items():
        tensors[f"{name}{_CONSTANT}"] = constant.float().cpu().contiguous()
    return tensors, {TURNED: " ".join(sorted(turned))}


def read_beside(tensors: Mapping[str, Tensor], layers: Collection[str] | None = None) -> dict[str, Factors]:
    """Terms by the names of layers. layers: those that the model has, None takes any.

    Raises ArtifactError for a damaged file, BaseMismatch for a layer that is not there.
    """
    from conceptguard.runtime.lowrank import Factors

    found = {}
    for key, down in tensors.items():
        if not key.endswith(_DOWN):
            continue
        name = key.removesuffix(_DOWN)
        up = tensors.get(f"{name}{_UP}")
        if up is None or down.ndim != 2 or up.ndim != 2 or up.shape[1] != len(down):
            raise ArtifactError(f"the terms of layer {name[:160]} are not two matrices of one rank: make it again")
        if not bool(down.isfinite().all()) or not bool(up.isfinite().all()):
            raise ArtifactError(f"the terms of layer {name[:160]} are no numbers: make the artifact again")
        if layers is not None and name not in layers:
            raise BaseMismatch(f"this model has no layer {name[:160]}: use an artifact made for this base model")
        found[name] = Factors(down, up, 1.0)
    if not found:
        raise ArtifactError("the file holds no terms of layers: make the artifact again")
    return found


def read_constants(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Constants [width] by the names of modules. Raises ArtifactError for a damaged file."""
    found = {key.removesuffix(_CONSTANT): one for key, one in tensors.items() if key.endswith(_CONSTANT)}
    for name, constant in found.items():
        if constant.ndim != 1 or not bool(constant.isfinite().all()):
            raise ArtifactError(f"the constant of {name[:160]} is not a row of numbers: make the artifact again")
    return found


def deltas(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """What each weight gains, in its own shape, under the name that the model's own files have for it. Raises
    ArtifactError for what is more than a change of weights."""
    if held := read_constants(tensors):
        raise ArtifactError(
            f"it adds a constant to what {min(held)[:160]} gives, which no change of weights does: clamp at 0 to export"
        )
    turned = metadata.get(TURNED, "").split()
    found = {}
    for name, (down, up, scale) in read_beside(tensors).items():
        change = scale * up @ down
        found[f"{name.removeprefix('model.')}.weight"] = (change.T if name in turned else change).contiguous()
    return found
