"""Weights that others patch under guards' terms: what is refused, what is made up for, what a receipt says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import GuardError
from ..runtime.banks import Banks
from ..runtime.lowrank import Terms
from ..runtime.patched import TAKEN, Patch, PatchEffects, patch_effects


def scale_terms(
    banks: Banks, prefix: str, patches: Mapping[str, Callable[[], Patch]], guards: Sequence[str]
) -> dict[int, list[str]]:
    """Scale the terms of one component as the weights are that they stand beside; gives notes by the guard's column.

    patches: all there are, by the names of layers; guards: what errors call the owners of ``banks.terms``. Raises
    GuardError where a guard's terms are taken back, or stand beside another weight than their own.
    """
    found = patch_effects(banks, prefix, patches)
    for guard, taken in zip(guards, found.taken):
        if taken >= TAKEN:
            raise GuardError(
                f"guard '{guard}': a patch on its layers takes back {taken:.0%} of what it does, as its own artifact "
                "does when it is loaded as a LoRA of negative strength: leave that LoRA out"
            )
    for layer, foreign in found.foreign.items():
        raise GuardError(
            f"layer {layer}: its weight was multiplied by {found.scales[layer]:.2g}, and {foreign:.0%} as much of "
            f"something else was put in, so that guards ({', '.join(guards)}) cannot act beside it as they were "
            "made to: leave out the node or adapter that patches it, or merge it beforehand and guard the result"
        )
    for bank in banks.of(prefix):
        bank.scale = found.scales.get(bank.name, 1.0)
    return _notes(found, banks.terms, prefix)


def _notes(found: PatchEffects, terms: Sequence[Terms], prefix: str) -> dict[int, list[str]]:
    """What a receipt says of patches beside a guard's terms, by the guard's column."""
    notes: dict[int, list[str]] = {}
    for column, own in enumerate(terms):
        said = notes[column] = []
        scales = [scale for layer, scale in found.scales.items() if layer in own.factors]
        if scales:
            low, high = min(scales), max(scales)
            times = f"{low:.3g}" if high - low < 1e-3 * abs(high) else f"{low:.3g} to {high:.3g}"
            said.append(f"terms times {times} on {len(scales)} layers of {prefix}, as the weights there are")
        for share, what in ((found.taken[column], "take back"), (found.added[column], "add")):
            if share >= 0.005:
                said.append(f"patches on its layers of {prefix} {what} {share:.1%} of it")
    return notes
