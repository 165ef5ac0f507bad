"""What others make of the weights that terms stand beside: a multiple of them, something else, or more than they were.

A term is learnt or solved for one weight: W + B A. Where W runs as s W, so must s B A, or the edit is 1 / s of what it
was. Where something else is added that lies along -B A, the edit is taken back: of each guard that share is measured,
layer by layer, by projection on its own terms. What lies across them (other LoRAs) is nobody's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .bank import Bank
    from .banks import Banks

# How much of a guard's terms may be taken back. Edits of two concepts on one base lie up to 0.07 along each other, so a
# LoRA that merely shares directions stays below; and what is left, 0.85 of it, erases as the whole does: shipped
# artifacts do so down to 0.6 of their strength, at 0.4 no more.
TAKEN = 0.15
_MULTIPLE = 0.05  # a weight that has so much more or less of itself, and
_EXPLAINED = 0.25  # of the change is just that: somebody multiplied; LoRAs lie across the weights they are added to
FOREIGN = 0.5  # of a multiplied weight may be something else


class Patch(NamedTuple):
    """What others add to a layer's weight, [out, in(, kh, kw)]. own: the layer's weight without it; None where it is
    known to be an addend, such as a LoRA's."""

    delta: Tensor
    own: Tensor | None = None


@dataclass
class PatchEffects:
    """What was found beside the terms of one component.

    scales: of layers whose weight runs as a multiple; foreign: of multiplied layers, how much as against the multiple
    is something else, where that is more than FOREIGN
    taken: for each guard in the order of ``Banks.terms``, which share of its terms is taken back, layers that have more
    than their own not set off against others
    added: for each guard, which share of its terms is there once more
    """

    scales: dict[str, float]
    foreign: dict[str, float]
    taken: list[float]
    added: list[float]


@torch.no_grad()
def patch_effects(banks: Banks, prefix: str, patches: Mapping[str, Callable[[], Patch]]) -> PatchEffects:
    """What patches, by the names of layers and made one by one, mean for the terms beside these."""
    count = len(banks.terms)
    found = PatchEffects({}, {}, [0.0] * count, [0.0] * count)
    whole = [0.0] * count
    strengths = [terms.gate.strength for terms in banks.terms]
    for bank in banks.of(prefix):
        sizes = _sizes(bank)
        for guard, size in sizes.items():
            whole[guard] += size
        if bank.name not in patches:
            continue
        scale, rest, foreign = split(patches[bank.name]())
        if scale != 1.0:
            found.scales[bank.name] = scale
        if foreign > FOREIGN:
            found.foreign[bank.name] = foreign
        for guard, along in _along(bank, rest).items():
            worth = scale * strengths[guard] * sizes[guard]
            if worth:
                share = along / worth
                found.taken[guard] += sizes[guard] * min(max(-share, 0.0), 1.0)
                found.added[guard] += sizes[guard] * max(share, 0.0)
    for shares in (found.taken, found.added):
        shares[:] = [share / size if size else 0.0 for share, size in zip(shares, whole)]
    return found


def split(patch: Patch) -> tuple[float, Tensor, float]:
    """(s, rest, foreign) of a weight that runs as s W + rest; s is 1 where nobody multiplied. rest: [out, in * ...]"""
    delta = patch.delta.flatten(1).float()
    if patch.own is None:
        return 1.0, delta, 0.0
    own = patch.own.flatten(1).to(delta)
    size, total = float(own.pow(2).sum()), float(delta.pow(2).sum())
    more = float((own * delta).sum()) / size if size else 0.0
    if abs(more) < _MULTIPLE or more**2 * size < _EXPLAINED * total:
        return 1.0, delta, 0.0
    rest = delta - more * own
    left, multiple = float(rest.norm()), abs(1 + more) * size**0.5
    if left < 1e-3 * size**0.5:
        return 1 + more, rest, 0.0
    return 1 + more, rest, left / max(multiple, 1e-9)


def _sizes(bank: Bank) -> dict[int, float]:
    """Squared norms of every guard's term at a layer, at strength 1."""
    up, down = bank.up.float(), bank.down.flatten(1).float()
    alone = (up.pow(2).sum(1) * down.pow(2).sum(1)).tolist()
    return {
        guard: alone[a] if b - a == 1 else float(((up[a:b] @ up[a:b].T) * (down[a:b] @ down[a:b].T)).sum())
        for guard, (a, b) in bank.spans.items()
    }


def _along(bank: Bank, rest: Tensor) -> dict[int, float]:
    """Inner products of every guard's term at a layer, at strength 1, with what was added there."""
    up, down = bank.up.float(), bank.down.flatten(1).float()
    ranks = ((up @ rest.to(up)) * down).sum(1).tolist()
    return {guard: sum(ranks[a:b]) for guard, (a, b) in bank.spans.items()}
