"""UCE files hold new weights. Less the base's they are a low-rank edit, found again exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from conceptguard.errors import ArtifactError, BaseMismatch
from conceptguard.formats.names import Names

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.runtime.lowrank import Factors


def read_uce(
    tensors: Mapping[str, Tensor], names: Names, base_weights: Callable[[str], Tensor] | None
) -> dict[str, Factors]:
    """Terms of `<layer>.weight` files; layers that did not change are left out.

    Raises ArtifactError without `base_weights`, and where an edit is not of low rank.
    """
    if base_weights is None:
        raise ArtifactError("the file holds new weights (UCE): give the base model, so that the edit can be told")
    terms: dict[str, Factors] = {}
    for key, new in tensors.items():
        layer = names.find(key.removesuffix(".weight")) if key.endswith(".weight") else None
        if layer is None:
            raise ArtifactError(f"tensor {key[:160]!r} is not a weight: not a UCE file, or altered")
        factors = factor(base_weights(layer), new, layer)
        if factors is not None:
            terms[layer] = factors
    if not terms:
        raise ArtifactError(
            "the file changes nothing in this base model: it was made for another one, or erases nothing"
        )
    return terms


def factor(old: Tensor, new: Tensor, layer: str) -> Factors | None:
    """The exact factors of `new` - `old`, both [out, in]; None when they are equal.

    What counts as zero is the rounding of the two dtypes. The rank may be at most a quarter of
    the smaller side: beyond that nothing is saved, and the edit is likely a fine-tune.
    """
    import torch

    from conceptguard.runtime.lowrank import Factors

    if new.ndim != 2:
        raise ArtifactError(f"layer {layer!r}: a UCE weight has two dimensions, this has {list(new.shape)}")
    if old.shape != new.shape:
        raise BaseMismatch(
            f"layer {layer!r}: the file has {list(new.shape)}, the base {list(old.shape)}: use the base it was made for"
        )
    if not new.is_floating_point():
        raise ArtifactError(f"layer {layer!r}: weights must be floating point, not {new.dtype}")
    difference = new.detach().cpu().double() - old.detach().cpu().double()
    if not difference.any():
        return None
    out, into = difference.shape
    # A matrix of independent roundings of size e has singular values up to about e (√out + √in).
    noise = float(new.double().pow(2).mean().sqrt()) * (out**0.5 + into**0.5)
    values, vectors = torch.linalg.eigh(difference.T @ difference)
    singular = values.clamp(min=0).sqrt()
    # The file's own rounding first. A base kept in fewer bits than the one the file was made from adds its
    # own.
    for eps in sorted({max(torch.finfo(dtype).eps, 2**-23) for dtype in (new.dtype, old.dtype)}):
        rank = int((singular > eps * noise).sum())
        if rank <= max(1, min(out, into) // 4):
            break
    else:
        raise ArtifactError(
            f"layer {layer!r}: the edit has rank {rank} of {min(out, into)}, not low: a fine-tune, or of another base"
        )
    if rank == 0:
        return None
    down = vectors[:, -rank:].T.contiguous()
    return Factors(down.float(), (difference @ down.T).float().contiguous(), 1.0)
