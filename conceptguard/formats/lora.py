"""LoRA files, and all that is written like them: each layer's tensors put together, and cut to diffusers' layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from conceptguard.errors import ArtifactError, BaseMismatch
from conceptguard.formats.alpha import Alphas, checked
from conceptguard.formats.forms import MAGNITUDES, Layer, check_factors, term
from conceptguard.formats.keys import split_key
from conceptguard.formats.names import Names
from conceptguard.formats.original import Piece

if TYPE_CHECKING:
    from torch import Tensor

    from conceptguard.runtime.lowrank import Factors

    Parts = dict[str, Tensor]

_PLAIN = {"down", "up", "alpha"}

BaseWeights = Callable[[str], "Tensor"]
Shapes = Callable[[str], "tuple[int, ...] | None"]

_NO_TERMS = {
    "bias": "a trained bias (lora_bias)",
    "diff_b": "a changed bias",
    "diff": "a changed norm",
    "w_norm": "a changed norm",
    "b_norm": "a changed norm",
}


def read_lora(
    tensors: Mapping[str, Tensor],
    names: Names,
    alphas: Alphas,
    shapes: Shapes,
    base_weights: BaseWeights | None,
) -> dict[str, Factors]:
    """Terms by canonical layer name. `shapes` of the base's layers, as far as they are known.

    Raises BaseMismatch for a layer that the base does not have, ArtifactError for what is not made of terms.
    """
    from conceptguard.runtime.lowrank import Factors

    terms: dict[str, Factors] = {}
    layers = _by_layer(tensors, names)
    for pieces, (_, parts) in layers.items() if alphas.common else ():
        if "alpha" in parts:
            alphas.count(pieces[0].layer.partition(".")[0], _number(parts["alpha"], pieces[0].layer))
    for pieces, (written, parts) in layers.items():
        if len(parts) == 3 and parts.keys() == _PLAIN and not pieces[0].cut and not alphas.configs:
            # By far the most, and a policy may have a thousand files.
            down, up = parts["down"], parts["up"]
            scale = _number(parts["alpha"], pieces[0].layer) / check_factors(pieces[0].layer, down, up)
            terms[pieces[0].layer] = Factors(*shaped(down, up, shapes(pieces[0].layer)), scale)
            continue
        down, up, scale = term(parts, _layer(pieces, written, parts, alphas, base_weights))
        for piece in pieces:
            if piece.layer in terms:
                raise ArtifactError(f"layer {piece.layer!r} has two tensors for `down`: keep one adapter per file")
            cut = _cut(down, up, piece, written)
            if cut is not None:
                terms[piece.layer] = Factors(*shaped(*cut, shapes(piece.layer)), scale)
    # The first layer says it, as a rule: few files have anything to look through.
    if not any(bool(one.up.any()) and bool(one.down.any()) and one.scale for one in terms.values()):
        raise ArtifactError("the file changes nothing: all of its terms are zero, so it would guard nothing")
    return terms


def _by_layer(tensors: Mapping[str, Tensor], names: Names) -> dict[tuple[Piece, ...], tuple[str, Parts]]:
    """The parts of each layer, and its name as the file writes it."""
    written: dict[str, Parts] = {}
    for key, tensor in tensors.items():
        split = split_key(key)
        if split is None:
            raise ArtifactError(f"tensor {key[:160]!r} is no part of a LoRA: the file is not one, or was altered")
        name, part = split
        if part in _NO_TERMS and (part != "diff" or tensor.ndim < 2):
            if bool(tensor.any()):
                raise ArtifactError(f"tensor {key[:160]!r} is {_NO_TERMS[part]}, which is no term: train it without")
            continue
        mine = written.setdefault(name, {})
        if part in mine:
            raise ArtifactError(f"layer {name[:160]!r} has two tensors for `{part}`: keep one adapter per file")
        mine[part] = tensor
    found: dict[tuple[Piece, ...], tuple[str, Parts]] = {}
    for name, parts in written.items():
        try:
            pieces = names.pieces(name)
        except BaseMismatch:
            # Extractors write every layer, those that did not change and that only they know as well.
            if any(part in ("up", "diff") and not bool(tensor.any()) for part, tensor in parts.items()):
                continue
            raise
        mine = found.setdefault(pieces, (name, {}))[1]
        for part, tensor in parts.items():
            if part in mine:
                raise ArtifactError(
                    f"layer {pieces[0].layer!r} has two tensors for `{part}`: keep one adapter per file"
                )
            mine[part] = tensor
    return found


def _layer(
    pieces: Sequence[Piece], written: str, parts: Parts, alphas: Alphas, base_weights: BaseWeights | None
) -> Layer:
    name = pieces[0].layer if len(pieces) == 1 else written
    component = pieces[0].layer.partition(".")[0]
    if alphas.settings(component).get("use_dora") and not any(part in parts for part in MAGNITUDES):
        raise ArtifactError(f"layer {name!r}: its configuration says DoRA, but the file has no lengths: fetch it again")

    def scale(rank: int | None) -> float:
        if "alpha" not in parts:
            return alphas.scale(pieces[0].layer, written, rank)
        return 1.0 if rank is None else _number(parts["alpha"], name) / rank

    def weight() -> Tensor:
        import torch

        if base_weights is None:
            raise ArtifactError(f"layer {name!r}: DoRA and OFT start from the base's weights: give the base model")
        weights = [base_weights(piece.layer) for piece in pieces]
        for one in weights:
            if one.device.type == "meta" or not one.dtype.is_floating_point or one.dtype.itemsize < 2:
                raise ArtifactError(
                    f"layer {name!r}: DoRA and OFT start from the base's weights, which are quantised or away: load "
                    "the model whole, or convert the file to a plain LoRA"
                )
        whole = torch.cat([one.detach().cpu() for one in weights]) if len(weights) > 1 else weights[0].detach().cpu()
        return _swapped(whole) if pieces[0].cut == "swap" else whole

    return Layer(name, scale, weight)


def _number(alpha: Tensor, layer: str) -> float:
    if alpha.numel() != 1:
        raise ArtifactError(f"layer {layer!r}: alpha must be one number: make the file again")
    return checked(float(alpha), layer)


def _cut(down: Tensor, up: Tensor, piece: Piece, written: str) -> tuple[Tensor, Tensor] | None:
    """The factors of one piece; None where nothing is left of them."""
    if not piece.cut:
        return down, up
    if piece.cut == "swap":
        return down, _swapped(up)
    number, parts = int(piece.cut[0]), piece.cut[1:]
    width = down.shape[1] if parts == "+" else len(up) // int(parts[1:])
    first, last = number * width, (len(up) if parts == "+" and number == 3 else (number + 1) * width)
    if last > len(up) or first >= last or (parts != "+" and len(up) % int(parts[1:])):
        raise BaseMismatch(f"layer {written[:160]!r}: {len(up)} outputs cannot be its parts': made for another base")
    mine = up[first:last]
    # Factors that were trained apart and then put together have ranks of their own, zero for the others.
    used = mine.flatten(1).any(dim=0)
    if bool(used.all()):
        return down, mine
    return (down[used], mine[:, used]) if bool(used.any()) else None


def _swapped(rows: Tensor) -> Tensor:
    import torch

    return torch.cat(rows.chunk(2)[::-1])


def shaped(down: Tensor, up: Tensor, shape: tuple[int, ...] | None) -> tuple[Tensor, Tensor]:
    """Factors as the layer's weight is: a convolution may be written as matrices, and the other way round."""
    if shape is None:
        return down, up
    if down.ndim == up.ndim == len(shape) == 2:
        return down, up
    (rank, *own), out = down.shape, len(up)
    if tuple(own) != shape[1:] and math.prod(own) == math.prod(shape[1:]):
        down = down.reshape(rank, *shape[1:])
    kernel = [1] * (len(shape) - 2)
    return down, up if list(up.shape[2:]) == kernel else up.reshape(out, rank, *kernel)
