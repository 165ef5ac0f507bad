"""A top-k sparse autoencoder over the states of a text encoder's layer.

Gao et al., "Scaling and evaluating sparse autoencoders", 2024; on text encoders: Tian et al., "Sparse Autoencoder as a
Zero-Shot Classifier for Concept Erasing in Text-to-Image Diffusion Models" (Interpret then Deactivate), 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

PARTS = ("encoder", "decoder", "bias", "centre")


@dataclass
class Codes:
    """What the autoencoder makes of states [..., width]: the features that are active, [..., k], and how much."""

    index: Tensor
    value: Tensor

    def peaks(self, features: int) -> Tensor:
        """The most that each feature is active at any position: [rows, positions, k] -> [rows, features]."""
        rows = len(self.index)
        found = self.value.new_zeros(rows, features)
        return found.scatter_reduce_(1, self.index.reshape(rows, -1), self.value.reshape(rows, -1), "amax")

    def only(self, features: Tensor) -> Tensor:
        """The values of some features, zero for the others: features [features] bool -> [..., k]."""
        return self.value * features[self.index]


@dataclass
class SAE:
    """z = ReLU(top-k(encoder (x - centre) + bias)); x' = z decoder + centre. All in float32.

    encoder, decoder: [features, width]; bias: [features]; centre: [width]; k: features that may be active at once
    """

    encoder: Tensor
    decoder: Tensor
    bias: Tensor
    centre: Tensor
    k: int

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], k: int) -> SAE:
        """From an artifact's tensors. Raises KeyError for a missing one, ValueError for shapes that do not fit."""
        encoder, decoder, bias, centre = (tensors[name].float() for name in PARTS)
        if encoder.ndim != 2 or decoder.shape != encoder.shape or (len(bias), len(centre)) != tuple(encoder.shape):
            raise ValueError(f"encoder {tuple(encoder.shape)}, decoder {tuple(decoder.shape)} do not fit together")
        if not 0 < k <= len(encoder):
            raise ValueError(f"{k} active features of {len(encoder)}")
        return cls(encoder, decoder, bias, centre, k)

    def to(self, device: torch.device) -> SAE:
        """The same on a device."""
        moved = [t.to(device) for t in (self.encoder, self.decoder, self.bias, self.centre)]
        return SAE(moved[0], moved[1], moved[2], moved[3], self.k)

    def __len__(self) -> int:
        return len(self.encoder)

    def encode(self, states: Tensor) -> Codes:
        """[..., width] -> the k strongest features."""
        value, index = ((states.float() - self.centre) @ self.encoder.T + self.bias).topk(self.k, dim=-1)
        return Codes(index, value.relu())

    def decode(self, codes: Codes) -> Tensor:
        """Codes -> states [..., width]."""
        return self._sum(codes.index, codes.value) + self.centre

    def shift(self, codes: Codes, features: Tensor, multiplier: float) -> Tensor:
        """What states change by when ``features`` [features] (bool) are multiplied: [..., width]."""
        return self._sum(codes.index, codes.only(features) * (multiplier - 1))

    def _sum(self, index: Tensor, value: Tensor) -> Tensor:
        return torch.nn.functional.embedding_bag(
            index.reshape(-1, self.k), self.decoder, per_sample_weights=value.reshape(-1, self.k), mode="sum"
        ).view(*index.shape[:-1], -1)
