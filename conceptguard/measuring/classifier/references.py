"""What models say that were trained without a forget set: the references of a classifier, several seeds for each."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...errors import RegistryError

FILE = "references.safetensors"


class References:
    """The retrained models of one net. margins [models, n] of all examples; named: the class each names; probes: what
    a linear probe on each one's features recovers, NaN where no class is forgotten as a whole."""

    def __init__(self, margins: Tensor, named: Tensor, probes: Tensor):
        self.margins, self.named, self.probes = margins, named, probes


def load_references(folder: Path, net: str, forgotten: str) -> References:
    """Of the net of a folder and a forget set by its name. Raises RegistryError where there are none."""
    try:
        found = load_file(folder / FILE)
    except (OSError, ValueError) as error:
        raise RegistryError(
            f"{folder / FILE}: no retrained references ({error}): judge an embedded classifier"
        ) from None
    key = f"{net}.{forgotten}"
    if f"{key}.margins" not in found:
        known = sorted({name.split(".")[1] for name in found if name.startswith(f"{net}.")})
        raise RegistryError(
            f"nothing was retrained without '{forgotten}' for {net}: it has {', '.join(known) or 'none'}"
        )
    return References(found[f"{key}.margins"].float(), found[f"{key}.named"].long(), found[f"{key}.probes"].float())


def as_tensors(net: str, forgotten: str, references: References) -> dict[str, Tensor]:
    """How they are kept."""
    return {
        f"{net}.{forgotten}.margins": references.margins.half(),
        f"{net}.{forgotten}.named": references.named.to(torch.uint8),
        f"{net}.{forgotten}.probes": references.probes.float(),
    }
