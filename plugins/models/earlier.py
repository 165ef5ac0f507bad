"""Earlier requests: artifacts that act already when the next one is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from conceptguard.errors import PolicyError
from conceptguard.registry import default_registry, open_artifact
from conceptguard.runtime.folded import places

from .forgetting import read_changes

if TYPE_CHECKING:
    from conceptguard.registry import Artifact


def artifacts(named: Sequence[str]) -> list[Artifact]:
    """By their folders or references. Raises PolicyError, RegistryError or ArtifactError."""
    found = [open_artifact(Path(one)) if Path(one).is_dir() else default_registry().load(one) for one in named]
    for one in found:
        one.verify()
    return found


@torch.no_grad()
def put_in(net: nn.Module, named: Sequence[str]) -> None:
    """Fold earlier artifacts into a copy of the model that they are attached to. Raises PolicyError for one of another
    model, and as ``artifacts``."""
    known = places(net)
    for artifact in artifacts(named):
        low, whole = read_changes(artifact.tensors())
        changes = {f"{name}.weight": up @ down for name, (down, up, _) in low.items()} | whole
        for name, change in changes.items():
            own = known[name].tensor if name in known else None
            if own is None or own.numel() != change.numel():
                raise PolicyError(f"{artifact.ref} was made for another model: name requests that this one had")
            own += change.reshape(own.shape).to(own)
