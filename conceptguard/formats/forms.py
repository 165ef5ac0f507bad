"""From the parts of one layer's change to one term, whatever trained them: LoRA, DoRA, LoHa, LoKr, OFT, a difference.

A sum of low rank becomes factors of that rank. What has no low rank (DoRA, OFT, most LoKr) becomes an exact term all
the same, one factor of which is the identity: it costs as much memory and time as the layer, and no accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from conceptguard.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor, dtype

    Parts = Mapping[str, Tensor]
    # Of the term's two-dimensional factors: down [r, in * kernel], up [out, r].
    Flat = tuple[Tensor, Tensor]

MAGNITUDES = ("magnitude", "dora_scale")


class Layer:
    """What is known of the layer that parts belong to.

    name: as the file writes it
    scale: alpha / rank, given the rank, or None where the tensors do not show it
    weight: the base's, [out, in] or [out, in, kh, kw]; raises ArtifactError where there is none
    """

    def __init__(self, name: str, scale: Callable[[int | None], float], weight: Callable[[], Tensor]) -> None:
        self.name, self.scale, self.weight = name, scale, weight

    def error(self, why: str) -> ArtifactError:
        """An error about this layer."""
        return ArtifactError(f"layer {self.name[:160]!r}: {why}")


def term(parts: Parts, layer: Layer) -> tuple[Tensor, Tensor, float]:
    """(down, up, scale) of one layer. Raises ArtifactError for parts that do not make one of the known kinds."""
    kind = next((kind for mark, kind in _KINDS.items() if any(part.startswith(mark) for part in parts)), None)
    if kind is None:
        what = "DoRA's lengths" if any(part in parts for part in MAGNITUDES) else ", ".join(sorted(parts))
        raise layer.error(f"has no factors, only {what}: truncated or altered; fetch it again")
    for name, part in parts.items():
        if not part.is_floating_point() and name != "alpha":
            raise layer.error(f"factors must be floating point, not {part.dtype}")
    down, up, scale = kind(parts, layer)
    magnitudes = [part for part in MAGNITUDES if part in parts]
    if not magnitudes:
        return down, up, scale
    change = scale * (up.flatten(1).float() @ down.flatten(1).float())
    return (*_full(_turned(change, parts[magnitudes[0]], magnitudes[0], layer), layer.weight().dtype), 1.0)


def _lora(parts: Parts, layer: Layer) -> tuple[Tensor, Tensor, float]:
    if "down" not in parts or "up" not in parts:
        lacks = "down" if "down" not in parts else "up"
        beside = " beside its Tucker core" if "mid" in parts else ""
        raise layer.error(f"has no `{lacks}` factor{beside}: truncated or altered; fetch it again")
    down, up = parts["down"], parts["up"]
    rank = check_factors(layer.name, down, up, core="mid" in parts)
    scale = layer.scale(rank)
    if "mid" in parts:
        mid = parts["mid"]
        if mid.ndim != 4 or tuple(mid.shape[:2]) != (rank, rank):
            raise layer.error(f"its Tucker core has shape {list(mid.shape)}, not [{rank}, {rank}, ...]: make it again")
        down = _einsum("mnhw,nj->mjhw", mid, down.flatten(1))
    return down, up, scale


def _loha(parts: Parts, layer: Layer) -> tuple[Tensor, Tensor, float]:
    a1, b1, a2, b2 = (_part(parts, f"hada_{name}", "LoHa", layer) for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    rank = int(b1.shape[0])
    scale = layer.scale(rank)
    if "hada_t1" in parts or "hada_t2" in parts:
        cores = [_part(parts, f"hada_{name}", "LoHa", layer) for name in ("t1", "t2")]
        one, two = (_einsum("ijhw,jr,ip->prhw", t, b, a) for t, a, b in zip(cores, (a1, a2), (b1, b2)))
        return (*_full((one * two).flatten(1)), scale)
    if a1.shape != a2.shape or b1.shape != b2.shape or a1.shape[1:] != b1.shape[:1]:
        raise layer.error("the factors of its LoHa do not fit each other: make the file again")
    if rank * rank >= min(len(a1), b1.shape[1]):
        return (*_full((a1.float() @ b1.float()) * (a2.float() @ b2.float())), scale)
    # The product of each row's entries of two sums of r is a sum of r².
    return (b1[:, None] * b2[None]).flatten(0, 1), (a1[:, :, None] * a2[:, None]).flatten(1), scale


def _lokr(parts: Parts, layer: Layer) -> tuple[Tensor, Tensor, float]:
    import torch

    whole: list[Tensor | None] = [parts.get("lokr_w1"), parts.get("lokr_w2")]
    rank = None
    for i, number in enumerate("12"):
        if whole[i] is None:
            a, b = (_part(parts, f"lokr_w{number}_{one}", "LoKr", layer) for one in "ab")
            rank = int(b.shape[0])
            if number == "2" and "lokr_t2" in parts:
                whole[i] = _einsum("ijhw,jr,ip->prhw", parts["lokr_t2"], b, a)
            else:
                whole[i] = a.float() @ b.float()
    one, two = (factor.float() for factor in whole if factor is not None)
    scale = layer.scale(rank)
    if one.ndim != 2 or two.ndim not in (2, 4):
        raise layer.error("the factors of its LoKr have the wrong shapes: make the file again")
    if two.ndim == 2 and parts.get("lokr_w2") is None:
        a, b = parts["lokr_w2_a"].float(), parts["lokr_w2_b"].float()
        if one.shape[1] * len(b) < min(len(one) * len(two), one.shape[1] * two.shape[1]):
            # one ⊗ (a b) = (one ⊗ a) (I ⊗ b): as many ranks as b has, for each column of `one`.
            return torch.kron(torch.eye(one.shape[1]), b), torch.kron(one, a), scale
    whole_change = torch.kron(one[..., None, None] if two.ndim == 4 else one, two.contiguous())
    return (*_full(whole_change.flatten(1)), scale)


def _oft(parts: Parts, layer: Layer) -> tuple[Tensor, Tensor, float]:
    import torch

    blocks, weight = parts["oft_blocks"].float(), layer.weight()
    if blocks.ndim != 3 or blocks.shape[0] * blocks.shape[1] != len(weight) or blocks.shape[1] != blocks.shape[2]:
        raise layer.error("its OFT is a butterfly (BOFT), or for another layer: convert it to a plain LoRA")
    if "rescale" in parts and not bool((parts["rescale"] == 1).all()):
        raise layer.error("its OFT rescales, which is not read: convert it to a plain LoRA")
    skew = blocks - blocks.transpose(1, 2)
    bound = float(parts["alpha"]) if "alpha" in parts else 0.0
    if 0 < bound < float(skew.norm()):
        raise layer.error("its OFT is constrained, which programs read differently: convert it to a plain LoRA")
    eye = torch.eye(blocks.shape[1])
    turn = (eye + skew) @ (eye - skew).inverse() - eye
    parted = weight.float().flatten(1).unflatten(0, blocks.shape[:2])
    return (*_full(torch.einsum("knm,kni->kmi", turn, parted).flatten(0, 1), weight.dtype), 1.0)


def _difference(parts: Parts, layer: Layer) -> tuple[Tensor, Tensor, float]:
    if parts["diff"].ndim < 2:
        raise layer.error("a change of a norm or a bias, which is no term: train it without")
    return (*_full(parts["diff"].flatten(1).float(), parts["diff"].dtype), 1.0)


_KINDS: dict[str, Callable[[Parts, Layer], tuple[Tensor, Tensor, float]]] = {
    "hada_": _loha,
    "lokr_": _lokr,
    "oft_": _oft,
    "down": _lora,
    "up": _lora,
    "mid": _lora,
    "diff": _difference,
}


def _part(parts: Parts, name: str, kind: str, layer: Layer) -> Tensor:
    if name not in parts:
        raise layer.error(f"its {kind} has no `{name}`: truncated or altered; fetch it again")
    return parts[name]


def _einsum(equation: str, *factors: Tensor) -> Tensor:
    import torch

    return torch.einsum(equation, *(factor.float() for factor in factors))


def _full(change: Tensor, dtype: dtype | None = None) -> Flat:
    """Factors of a change [out, in * kernel] that has no low rank: itself, and the identity of the smaller side."""
    import torch

    out, into = change.shape
    change = change if dtype is None else change.to(dtype)
    eye = torch.eye(min(out, into), dtype=change.dtype)
    return (change, eye) if out <= into else (eye, change)


def _turned(change: Tensor, magnitude: Tensor, kind: str, layer: Layer) -> Tensor:
    """DoRA (Liu et al., ICML 2024): W + change, each row or column made as long as learnt, less W."""
    weight = layer.weight().float()
    merged = (weight.flatten(1) + change).view(weight.shape)
    out, into = weight.shape[:2]
    length = magnitude.float()
    # peft keeps a length for each output, as [out] or, for convolutions, [1, out, 1, 1]; LyCORIS for each output as
    # [out, 1, ...], or for each input as [1, in, ...].
    if length.numel() == out and (kind == "magnitude" or len(length) == out):
        norm = merged.flatten(1).norm(dim=1)
        new = merged.flatten(1) * (length.flatten() / norm)[:, None]
    elif kind == "dora_scale" and length.numel() == into and len(length) == 1:
        norm = merged.transpose(0, 1).flatten(1).norm(dim=1)
        new = (merged * (length.flatten() / norm).view(1, into, *[1] * (weight.ndim - 2))).flatten(1)
    else:
        raise layer.error(
            f"its DoRA has lengths {list(magnitude.shape)} for {[out, into]}: made for another base model"
        )
    return new - weight.flatten(1)


def check_factors(layer: str, down: Tensor, up: Tensor, *, core: bool = False) -> int:
    """The rank of a pair of factors. core: with another one between them.

    Raises ArtifactError when shapes or dtypes cannot be a term.
    """
    one, other = down.shape, up.shape
    good = {len(one), len(other)} <= {2, 4} and one[0] == other[1] and one[0] > 0
    if not good or other[2:] not in ((), (1, 1)) or (core and one[2:] not in ((), (1, 1))):
        shapes = f"down {list(one)}, up {list(other)}"
        raise ArtifactError(f"layer {layer!r}: factors do not fit each other ({shapes}): make the file again")
    if not down.is_floating_point() or not up.is_floating_point():
        raise ArtifactError(f"layer {layer!r}: factors must be floating point, not {down.dtype} and {up.dtype}")
    return int(one[0])
