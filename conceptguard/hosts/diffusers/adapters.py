"""What peft puts around guarded layers, and whether the weights of these are still the same.

An adapter is loaded, scaled, fused and unloaded whenever its owner likes, so that it is looked at before every call:
whether anything changed is told by names and numbers, and what it adds is asked of peft only then.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import GuardError
from ...runtime.patched import Patch
from .in_files import in_files

if TYPE_CHECKING:
    from ...protocols import DrawingSession

_ADDED = ("lora_A", "hada_w1_a", "lokr_w1")  # of peft's layers that only add to a weight
_SCALED = ("cross_attention_kwargs", "joint_attention_kwargs", "attention_kwargs")
_ROUNDED = 0.03  # of a weight may be lost by merging and unmerging, in half precision beside a large adapter
_SAMPLE = 8  # numbers of a weight, which any edit of the whole of it changes
_NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Adapters:
    """Of one component of a guarded pipeline."""

    def __init__(self, session: DrawingSession, prefix: str, model: nn.Module):
        self._session, self._prefix, self._model = session, prefix, model
        self._layers: dict[str, Any] = {bank.name: session.layers[bank.name] for bank in session.banks.of(prefix)}
        self._again = True
        self._configs: tuple[int, ...] = ()
        self._around: dict[str, list[Any]] = {}
        self._own = self._added = Samples(())
        self._plain: Samples | None = None  # of the weights while no adapter was merged into them
        self._merged: Any = None
        self._known: Any = self._state(1.0)
        self._look()

    def begin(self) -> None:
        """A pipeline call begins: what was true of the last one need not be of this."""
        self._again = True

    def check(self, scale: float = 1.0) -> bool:
        """Before the component runs: whether its terms are scaled otherwise than before. scale: of its LoRAs, in this
        call alone. Raises GuardError, see ``DrawingSession.patched``."""
        if not self._layers:
            return False
        configs = tuple(map(id, (getattr(self._model, "peft_config", None) or {}).values()))
        if not (self._again or configs or self._configs):
            return False
        changed = False
        if self._again or configs != self._configs:
            changed = self._look()
            self._again, self._configs = False, configs
        state = self._state(scale)
        if not changed and state == self._known:
            return False
        self._known = None  # until it is told that they are fine
        acting = {name: [one for one in around if _acting(one)] for name, around in self._around.items()}
        found = {name: partial(_patch, self._layers[name], some, scale) for name, some in acting.items() if some}
        self._session.patched(self._prefix, found)
        self._known = state
        return True

    def _look(self) -> bool:
        """Find the adapters; gives whether they hold other numbers. Raises GuardError where weights changed by
        themselves."""
        self._around = _around(self._model, self._layers) if getattr(self._model, "peft_config", None) else {}
        added = Samples(p for layers in self._around.values() for layer in layers for p in _parameters(layer))
        merged = [(name, tuple(one.merged_adapters)) for name, around in self._around.items() for one in around]
        merged = [(name, names) for name, names in merged if names]
        filed = in_files(self._model)
        own = Samples(None if id(layer.weight) in filed else layer.weight for layer in self._layers.values())
        if merged == self._merged:
            changed = self._own.differs(own)
        elif self._plain is None:
            changed = None
        else:
            changed = self._merged_otherwise(own) if merged else self._plain.differs(own, _ROUNDED)
        if changed is not None:
            raise GuardError(
                f"the weight of layer {list(self._layers)[changed]} is another one than when the policy was attached, "
                "and than adapters that are merged into it say, so that what guards add beside it may be taken back by "
                "that: detach, then attach again, if the change is yours"
            )
        self._plain = self._plain if merged else own
        same = self._added.count == added.count and self._added.differs(added) is None
        self._own, self._added, self._merged = own, added, merged
        return not same

    def _merged_otherwise(self, own: Samples) -> int | None:
        """Which weight is not what it was and what is merged into it now. Scales may be set after merging."""
        assert self._plain is not None
        before, after = self._plain.by_place(), own.by_place()
        for i, (name, layer) in enumerate(self._layers.items()):
            ones = [one for one in self._around.get(name, ()) if one.merged_adapters and _acting(one)]
            if ones and i in before and i in after:
                delta = _some(_patch(layer, ones, 1.0).delta.contiguous()).cpu()
                off = after[i].float() - before[i].float() - delta
                if off.norm() > 0.5 * delta.norm() + _ROUNDED * after[i].float().norm():
                    return i
        return None

    def _state(self, scale: float) -> Any:
        return [scale if self._around else 1.0] + [
            (id(one), one.active_adapters, one.merged_adapters[:], one.disable_adapters,
             {name: float(value) for name, value in getattr(one, "scaling", {}).items()})
            for around in self._around.values() for one in around
        ]  # fmt: skip


def scale_of(kwargs: Mapping[str, Any]) -> float:
    """By what a call of a denoiser multiplies its LoRAs."""
    given = [kwargs[name] for name in _SCALED if isinstance(kwargs.get(name), dict)]
    return float(given[0].get("scale", 1.0)) if given else 1.0


def _around(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, list[Any]]:
    """For each guarded layer that has any the adapters around it, from the inside."""
    outer = {id(module.base_layer): module for module in model.modules() if hasattr(module, "base_layer")}
    found: dict[str, list[Any]] = {}
    for name, layer in layers.items():
        inner: Any = layer
        while (inner := outer.get(id(inner))) is not None:
            found.setdefault(name, []).append(inner)
    return found


def _parameters(adapter: Any) -> list[Tensor]:
    return [p for name, p in adapter.named_parameters() if not name.startswith("base_layer.")]


def _acting(adapter: Any) -> list[str]:
    """The adapters of a layer that count: those that are merged, else those that are active."""
    if adapter.disable_adapters:
        return []
    names = list(adapter.merged_adapters) or list(adapter.active_adapters)
    kept = [getattr(adapter, attribute, {}) for attribute in adapter.adapter_layer_names]
    return [name for name in names if any(name in held for held in kept)]


@torch.no_grad()
def _patch(layer: nn.Module, around: Sequence[Any], scale: float) -> Patch:
    """What adapters, one at least, add to a layer's weight."""
    added: list[Tensor] = []
    own: Tensor | None = None
    for adapter in around:
        names, times = _acting(adapter), 1.0 if adapter.merged_adapters else scale
        try:
            variants = getattr(adapter, "lora_variant", {})
            if any(hasattr(adapter, kind) for kind in _ADDED) and not any(name in variants for name in names):
                added += [adapter.get_delta_weight(name).float() * times for name in names]
            else:
                own, running = _merged(layer, adapter, names, times)
                added.append(running - own)
        except Exception as error:
            raise GuardError(
                f"what an adapter ({type(adapter).__module__}) makes of a guarded layer cannot be told "
                f"({type(error).__name__}: {error}): merge it beforehand and attach to the result, or leave it out"
            ) from error
    return Patch(torch.stack(added).sum(0), own)


def _merged(layer: nn.Module, adapter: Any, names: Sequence[str], scale: float) -> tuple[Tensor, Tensor]:
    """(own weight, running weight) of a layer with adapters that do more than add."""
    other: Any = copy.copy(layer)
    other._parameters = {
        name: None if p is None else nn.Parameter(p.detach().clone(), requires_grad=False)
        for name, p in layer._parameters.items()
    }
    other.__dict__.pop("forward", None)  # a guard's, or an offloader's
    twin = copy.deepcopy(adapter, {id(layer): other})
    weight: Any = layer.weight.float()  # type: ignore[operator]
    if adapter.merged_adapters:
        twin.unmerge()
        return other.weight.float(), weight
    if scale != 1.0:
        twin.scale_layer(scale)
    twin.merge(adapter_names=list(names))
    return weight, other.weight.float()


class Samples:
    """A few numbers of each of some weights; none of those that are elsewhere (offloaded), or stored as no numbers."""

    @torch.no_grad()
    def __init__(self, weights: Iterable[Any]):
        found: dict[Any, tuple[list[int], list[Tensor]]] = {}
        self.count = 0
        for i, weight in enumerate(weights):
            self.count += 1
            if isinstance(weight, Tensor) and weight.dtype in _NUMBERS and not weight.is_meta:
                places, parts = found.setdefault((weight.device, weight.dtype), ([], []))
                places.append(i)
                parts.append(_some(weight))
        # one operation for all: there may be a thousand
        self._groups = {key: (places, torch.cat(parts)) for key, (places, parts) in found.items()}

    def differs(self, other: Samples, slack: float = 0.0) -> int | None:
        """Which weight is another one there, moved and cast in between or not; None where none is. slack: as a share"""
        if self._groups.keys() == other._groups.keys() and all(
            places == other._groups[key][0] and torch.equal(numbers, other._groups[key][1])
            for key, (places, numbers) in self._groups.items()
        ):
            return None
        mine, theirs = self.by_place(), other.by_place()
        return next((i for i, own in mine.items() if i in theirs and not _alike(own, theirs[i], slack)), None)

    def by_place(self) -> dict[int, Tensor]:
        """Each weight's, on the CPU."""
        return {
            i: part
            for places, numbers in self._groups.values()
            for i, part in zip(places, numbers.cpu().split(_SAMPLE))
        }  # fmt: skip


def _some(weight: Tensor) -> Tensor:
    """[_SAMPLE], from all over a weight, a view where it lies in one piece."""
    count = weight.numel()
    if count >= _SAMPLE and weight.is_contiguous():
        return weight.as_strided((_SAMPLE,), (count // _SAMPLE,), weight.storage_offset())
    flat = weight.reshape(-1)[:: max(count // _SAMPLE, 1)][:_SAMPLE]
    return torch.nn.functional.pad(flat, (0, _SAMPLE - len(flat)))


def _alike(before: Tensor, after: Tensor, slack: float) -> bool:
    if slack:
        return bool((after.float() - before.float()).norm() <= slack * before.float().norm() + 1e-6)
    if before.dtype == after.dtype:
        return torch.equal(before, after)
    return torch.allclose(before.float(), after.float(), rtol=0.02, atol=1e-4)
