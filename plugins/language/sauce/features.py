"""A sparse autoencoder's features of a concept, as an artifact keeps them, and states with less of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptguard.errors import ArtifactError

if TYPE_CHECKING:
    from conceptguard.registry import Artifact

_PARTS = ("encoder", "bias", "middle", "directions", "chosen")


@dataclass
class Features:
    """Of states [rows, tokens, width] that ``layer`` gives.

    encoder [features, width], bias [features], middle [width]: of the autoencoder, whose ``few`` largest codes count
    chosen [n]: the concept's features; directions [n, width]: what each adds, of length 1
    """

    encoder: Tensor
    bias: Tensor
    middle: Tensor
    directions: Tensor
    chosen: Tensor
    few: int
    layer: str

    @classmethod
    def read(cls, artifact: Artifact) -> Features:
        """Raises ArtifactError for a damaged file."""
        found, settings = artifact.tensors(), artifact.manifest.made
        try:
            parts = {name: found[name] for name in _PARTS}
            few, layer = int(settings["few"]), str(settings["layer"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{artifact.ref} has no sound features ({error}): make it again") from None
        chosen, n, width = parts["chosen"], *parts["encoder"].shape
        fits = parts["bias"].shape == (n,) and parts["middle"].shape == (width,)
        fits &= parts["directions"].shape == (len(chosen), width) and 0 < few <= n
        finite = all(bool(parts[name].isfinite().all()) for name in _PARTS[:-1])
        if not fits or not finite or not len(chosen) or int(chosen.min()) < 0 or int(chosen.max()) >= n:
            raise ArtifactError(f"{artifact.ref}: its features do not fit together: make it again")
        floats = {name: one.float() for name, one in parts.items() if name != "chosen"}
        return cls(**floats, chosen=chosen.long(), few=few, layer=layer)

    def codes(self, states: Tensor) -> Tensor:
        """How active the concept's features are, [..., n], float32; 0 where others are more so."""
        every = ((states.float() - self.middle) @ self.encoder.T + self.bias).relu()
        least = every.topk(self.few, -1).values[..., -1:]
        own = every[..., self.chosen]
        return torch.where(own >= least, own, torch.zeros_like(own))

    def scaled(self, states: Tensor, gates: Tensor, scale: float) -> Tensor:
        """States with the concept's features multiplied by ``scale``, as far as each row's gate [rows] says."""
        self._follow(states.device)
        change = (scale - 1) * self.codes(states) @ self.directions
        return (states.float() + gates[:, None, None].float() * change).to(states.dtype)

    def _follow(self, device: torch.device) -> None:
        if self.encoder.device != device:
            for name in _PARTS:
                setattr(self, name, getattr(self, name).to(device))
