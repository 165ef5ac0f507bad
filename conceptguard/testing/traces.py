"""Promise 2: after detach nothing is left, also after an exception in mid-generation."""

from __future__ import annotations

import gc
import hashlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..errors import GuardError
from .bench import Bench, leaves_alone
from .case import demand

Snapshot = dict[str, Any]


def snapshot(pipe: Any) -> Snapshot:
    """Everything a guard could leave on a pipeline: weights by hash; hooks, attributes and classes by identity."""
    found: Snapshot = {"pipe class": type(pipe), "pipe attributes": sorted(vars(pipe))}
    found["pipe blocks"] = id(getattr(pipe, "_blocks", None))
    components = getattr(pipe, "components", {})
    for cls in {type(pipe), *(type(part) for part in components.values() if part is not None)}:
        found[f"class {cls.__name__}"] = {name: id(value) for name, value in _code(cls)}
    for name, part in components.items():
        if isinstance(part, nn.Module):
            found |= _module(name, part)
        else:
            found[f"{name} class"] = type(part)
            found[f"{name} attributes"] = sorted(vars(part)) if hasattr(part, "__dict__") else []
    shared = torch.nn.modules.module
    found["global hooks"] = [len(value) for key, value in sorted(vars(shared).items()) if _is_hooks(key, value)]
    return found


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """What one snapshot has and the other has not, in words."""
    return [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]


def _code(cls: type) -> Iterator[tuple[str, Any]]:
    for base in cls.__mro__[:-1]:
        for name, value in vars(base).items():
            if callable(value) or isinstance(value, (staticmethod, classmethod, property)):
                yield f"{base.__qualname__}.{name}", value


def _module(component: str, root: nn.Module) -> Snapshot:
    found: Snapshot = {}
    for path, module in root.named_modules():
        where = f"{component}.{path}".rstrip(".")
        own = {key: value for key, value in vars(module).items() if key not in ("_parameters", "_buffers", "_modules")}
        found[f"hooks of {where}"] = [list(map(id, v.values())) for k, v in sorted(own.items()) if _is_hooks(k, v)]
        found[f"attributes of {where}"] = {k: id(v) for k, v in own.items() if not _is_hooks(k, v) and k != "training"}
        found[f"class of {where}"] = type(module)
    for path, tensor in [*root.named_parameters(), *root.named_buffers()]:
        found[f"weight {component}.{path}"] = (tensor.dtype, str(tensor.device), tuple(tensor.shape), _digest(tensor))
    return found


def _is_hooks(key: str, value: Any) -> bool:
    return "hooks" in key and isinstance(value, dict)


def _digest(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8) if tensor.numel() else torch.zeros(0)
    return hashlib.sha1(data.numpy().tobytes(), usedforsecurity=False).hexdigest()


def _demand_no_trace(bench: Bench, before: Snapshot, what: list[weakref.ref[Any]]) -> None:
    left = differences(before, snapshot(bench.pipe))
    demand(not left, f"after detach these are not what they were: {', '.join(left[:4])} ({len(left)} in all)")
    gc.collect()
    alive = [ref() for ref in what if ref() is not None]
    demand(not alive, f"after detach something still refers to {alive[:1]}")


def no_trace(bench: Bench) -> None:
    """After attach, generation and detach: the same weights, hooks and classes, and nobody remembers the session."""
    before = snapshot(bench.pipe)
    with bench.attached() as session:
        bench.attempt([bench.case.opens])
        what = [weakref.ref(thing) for thing in (session, *session.methods)]
        during = [key for key in differences(before, snapshot(bench.pipe)) if key.startswith("weight ")]
        demand(not during, f"base weights are written to: {', '.join(during[:4])}")
    del session
    _demand_no_trace(bench, before, what)


def no_trace_after_error(bench: Bench) -> None:
    """An exception in mid-generation leaves nothing open, and after detach nothing at all."""
    before = snapshot(bench.pipe)
    bare = bench.bare(bench.case.unrelated[:1])
    denoiser = getattr(bench.pipe, bench.denoiser_name)

    class Mine(Exception):
        pass

    def stop(*_: Any) -> Any:
        raise Mine

    with bench.attached() as session:
        hook = denoiser.register_forward_hook(stop)
        try:
            bench.attempt([bench.case.opens])
        except (Mine, GuardError):  # the latter where a guard was asking the denoiser
            pass
        finally:
            hook.remove()
        leaves_alone(bench, bench.pipe, bare, "after an exception in mid-generation")
        what = [weakref.ref(thing) for thing in (session, *session.methods)]
    del session
    _demand_no_trace(bench, before, what)
