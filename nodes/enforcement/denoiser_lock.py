"""A lock on every diffusion model in this process: closed outside of a session that has the operator's policy.

Models are met when they are built, by PyTorch's own hook on the registration of modules: ComfyUI's by the name of their
place, ``diffusion_model``, and those of diffusers, which a custom node may bring, by where their class is from.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from conceptguard.errors import Refused
from conceptguard.runtime.bank import running

_DENOISERS = ("diffusers.models.unets", "diffusers.models.transformers")
_known: weakref.WeakSet[nn.Module] = weakref.WeakSet()
sessions: weakref.WeakSet[Any] = weakref.WeakSet()  # that have the operator's policy


def lock_all() -> None:
    """From now on, for every model that is built."""
    register_module_module_registration_hook(_registered)


def _registered(parent: nn.Module, name: str, child: nn.Module | None) -> None:
    if name == "diffusion_model" and isinstance(child, nn.Module):
        _lock(child)
    elif type(parent).__module__.startswith(_DENOISERS):
        _lock(parent)


def _lock(model: nn.Module) -> None:
    if model not in _known:
        _known.add(model)
        model.register_forward_pre_hook(_refuse)


def _refuse(module: nn.Module, args: Any) -> None:
    holder = running.get()
    session = getattr(holder, "session", holder)  # a host, while a guard asks its model something
    if session not in sessions:
        raise Refused(
            "this server's policy guards every sampling, and a node tried to sample past it: use ComfyUI's own "
            "samplers, with prompts that are encoded by CLIP Text Encode"
        )
