"""Weight patches that nodes put under guarded layers: LoRAs, merges, multipliers, and hooks that come and go by step.

They are in a ModelPatcher, not in the model's weights; a CLIP has one as well. What they make of a layer's weight is
asked of ComfyUI's own function, once for every set of patches.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from itertools import islice, product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import GuardError
from ...runtime.lowrank import Part
from ...runtime.patched import Patch

if TYPE_CHECKING:
    from ...protocols import DrawingSession

Patches = dict[str, list[Any]]  # by the key of a weight: (strength, what, strength of the model, offset, function)
_WAYS = 64  # in which hooks of conditions come together; each is looked at
_BYPASS = "bypass_lora"  # injections of ComfyUI's loader that leaves weights alone


class WeightPatches:
    """What was found under the guarded layers of one session, component by component."""

    def __init__(self, session: DrawingSession):
        self._session = session
        self._known: dict[str, Hashable] = {}

    @torch.no_grad()
    def check(self, prefix: str, patcher: Any, hooks: Iterable[Any] = ()) -> None:
        """Before ``patcher``'s model runs with guards on a component. hooks: comfy's, of conditions.

        Raises GuardError for patches under which guards cannot act, see ``DrawingSession.patched``.
        """
        banks = self._session.banks.of(prefix)
        if not banks:
            return
        if getattr(patcher, "injections", {}).get(_BYPASS):
            raise GuardError(
                "a LoRA was loaded in bypass mode, where guards on layers cannot see what it adds: load it with the "
                "ordinary loader"
            )
        held = {ref: patches for ref, patches in patcher.hook_patches.items() if patches}
        of_hooks = {hook.hook_ref: _strengths(hook) for hook in hooks if getattr(hook, "hook_ref", None) in held}
        strengths = [of_hooks.get(ref, [0.0, 1.0]) for ref in held]
        key = (patcher.patches_uuid, tuple(map(id, held)), tuple(map(tuple, strengths)))
        if self._known.get(prefix) == key:
            return
        self._known.pop(prefix, None)
        self._look(prefix, patcher, list(held.values()), strengths)
        self._known[prefix] = key

    def _look(self, prefix: str, patcher: Any, held: list[Patches], strengths: list[list[float]]) -> None:
        layers = {bank.name: self._session.layers[bank.name] for bank in self._session.banks.of(prefix)}
        keys = _keys_of(layers, patcher.model)
        wrapped = [name for name, key in keys.items() if key in patcher.weight_wrapper_patches]
        ways = list(islice(product(*strengths), _WAYS + 1))
        if wrapped or len(ways) > _WAYS:
            what = f"a node wraps the weight of layer {wrapped[0]}" if wrapped else "its conditions have too many hooks"
            raise GuardError(
                f"what runs beside the guards' terms cannot be told, for {what}: leave that out of the graph"
            )
        scales: set[tuple[float, ...]] = set()
        for way in reversed(ways):  # the receipt tells of the last one: every hook at the first of its strengths
            sets = [patcher.patches, *(_times(patches, s) for patches, s in zip(held, way) if s)]
            found = {
                name: partial(_patch, layers[name], key, patches, patcher)
                for name, key in keys.items() if (patches := [p for own in sets for p in own.get(key, ())])
            }  # fmt: skip
            self._session.patched(prefix, found)
            scales.add(tuple(round(bank.scale, 3) for bank in self._session.banks.of(prefix)))
        if len(scales) > 1:
            raise GuardError(
                "hooks of a condition multiply weights that guards act beside, in some steps and not in others: leave "
                "them out of the graph"
            )


def hooks_of(conds: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[Any]:
    """The hooks that a guider's conditions have."""
    groups = [cond.get("hooks") for conditions in conds.values() for cond in conditions]
    return [hook for group in groups if group is not None for hook in group.hooks]


def _strengths(hook: Any) -> list[float]:
    """With which strengths a hook is applied: by the step, and not at all in conditions that do not have it."""
    return [*dict.fromkeys([*(frame.strength for frame in hook.hook_keyframe.keyframes), 1.0][:8]), 0.0]


def _times(patches: Patches, strength: float) -> Patches:
    return {key: [(p[0] * strength, *p[1:]) for p in own] for key, own in patches.items()}


def _keys_of(layers: Mapping[str, Any], model: nn.Module) -> dict[str, str]:
    """The keys of layers' weights in a model."""
    names = {id(module): name for name, module in model.named_modules()}
    whole = {name: layer.whole if isinstance(layer, Part) else layer for name, layer in layers.items()}
    return {name: f"{names[id(layer)]}.weight" for name, layer in whole.items() if id(layer) in names}


def _patch(layer: nn.Module | Part, key: str, patches: list[Any], patcher: Any) -> Patch:
    """What all patches together add to a layer's weight."""
    import comfy.lora

    try:
        own = _own_weight(patcher, key)
        before: dict[str, Any] = {key: [(own, lambda weight, **_: weight)]}
        running = comfy.lora.calculate_weight(patches, own.clone(), key, torch.float32, before)
        delta = running - own
    except Exception as error:
        raise GuardError(
            f"what a node's patch makes of {key} cannot be told ({type(error).__name__}: {error}), and a guard acts "
            "there: leave that node out of the graph"
        ) from error
    return Patch(layer.own(delta), layer.own(own)) if isinstance(layer, Part) else Patch(delta, own)


def own_weights(layers: Mapping[str, Any], patchers: Mapping[str, Any]) -> Callable[[str], Tensor]:
    """Weights by canonical name without any patch, also where a sampling before left patches in them.

    patchers: of the model and of the CLIP, by the first part of a layer's name
    """
    keys: dict[int, dict[str, str]] = {}

    def weight(name: str) -> Tensor:
        patcher, layer = patchers[name.split(".", 1)[0]], layers[name]
        if id(patcher) not in keys:
            keys[id(patcher)] = _keys_of(layers, patcher.model)
        own = _own_weight(patcher, keys[id(patcher)][name])
        return layer.own(own) if isinstance(layer, Part) else own

    return weight


def _own_weight(patcher: Any, key: str) -> Tensor:
    """A weight without any patch, float32, where the model samples."""
    from comfy.model_patcher import get_key_weight

    weight, _, convert = get_key_weight(patcher.model, key)
    if key in patcher.backup:
        weight = patcher.backup[key].weight
    if key in patcher.hook_backup:
        weight = patcher.hook_backup[key][0]
    weight = weight.to(patcher.load_device, torch.float32, copy=True)
    return weight if convert is None else convert(weight, inplace=True)  # type: ignore[no-any-return]
