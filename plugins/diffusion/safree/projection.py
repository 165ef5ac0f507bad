"""SAFREE's projection of what a pipeline's text encoders say of prompts, one encoder and one space at a time.

Yoon et al., "SAFREE: Training-Free and Adaptive Guard for Safe Text-to-Image and Video Generation", ICLR 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from conceptguard.protocols import TextEncoder

from .math import beta, projected
from .triggers import Part


class Change(NamedTuple):
    """What a projection does: the difference it makes, [prompts, tokens, width], and how much it takes, β [prompts]."""

    difference: Tensor
    beta: Tensor


def of_states(
    encoder: TextEncoder, concept: Tensor, parts: Sequence[Part], lengths: Sequence[int], own: Tensor, official: bool
) -> Change:
    """own: an encoder's states [prompts, tokens, width], float32; parts: what its first space knows of each prompt;
    lengths: positions that each prompt takes. The difference is zero at all but the trigger positions.
    """
    inputs, where = _together(parts, own)
    new = projected(own, inputs, concept.to(own), official)
    attended = torch.arange(own.shape[1], device=own.device) < torch.tensor(lengths, device=own.device).unsqueeze(1)
    taken = beta(own, new, attended) * inputs.any(-1).any(-1)
    where = torch.nn.functional.pad(where, (0, max(own.shape[1] - where.shape[1], 0)))[:, : own.shape[1]]
    return Change((new - own) * where.unsqueeze(-1), taken)


def of_pooled(concept: Tensor, parts: Sequence[Part], own: Tensor, official: bool) -> Tensor:
    """The difference for pooled vectors [prompts, width] of prompts with triggers; parts: of their own space."""
    inputs, where = _together(parts, own)
    new = projected(own.unsqueeze(1), inputs, concept.to(own), official)[:, 0]
    return (new - own) * where.any(1, keepdim=True)


def _together(parts: Sequence[Part], like: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs [prompts, most, width] and trigger positions [prompts, window + 2] of one space, padded."""
    inputs = torch.nn.utils.rnn.pad_sequence([part.inputs for part in parts], batch_first=True)
    return inputs.to(like), torch.stack([part.positions for part in parts]).to(like.device)
