"""The arithmetic of SAFREE on plain tensors, a batch of prompts at a time.

A subspace is given by an orthonormal basis [..., n, width], rows of zeros where it has fewer dimensions. Projecting by
it costs n·width per vector; the width × width matrix of a projector is never built.

Yoon et al., "SAFREE: Training-Free and Adaptive Guard for Safe Text-to-Image and Video Generation", ICLR 2025.
"""

from __future__ import annotations

import torch
from torch import Tensor


def basis(vectors: Tensor) -> Tensor:
    """An orthonormal basis of what the rows span: [..., n, width] -> float32 of the same shape, zeros after its rank.

    A thin decomposition in float64 on the CPU: the encodings of one prompt with one token masked are so alike that a
    pseudo-inverse of their Gram matrix in float32 loses most digits, and other devices would lose others.
    """
    _, values, rows = torch.linalg.svd(vectors.detach().cpu().double(), full_matrices=False)
    # What the encoder's own float32 cannot tell from zero is no direction.
    noise = values[..., :1] * max(vectors.shape[-2:]) * torch.finfo(torch.float32).eps
    found = rows * (values > noise).unsqueeze(-1)
    missing = vectors.shape[-2] - found.shape[-2]
    return torch.nn.functional.pad(found, (0, 0, 0, max(missing, 0))).float().to(vectors.device)


def into(x: Tensor, subspace: Tensor) -> Tensor:
    """P x: the part of x [..., t, width] inside a subspace [..., n, width]."""
    return x @ subspace.mT @ subspace


def out_of(x: Tensor, subspace: Tensor) -> Tensor:
    """(I − P) x: what is left of x [..., t, width] without its part inside a subspace."""
    return x - into(x, subspace)


def distances(masked: Tensor, concept: Tensor) -> Tensor:
    """How far each masked encoding [..., n, width] is from the concept's subspace: [..., n]."""
    return out_of(masked, concept).norm(dim=-1)


def triggers(distance: Tensor, real: Tensor, alpha: float, unmasked: Tensor | None = None) -> Tensor:
    """Which tokens carry the concept: without them the prompt is at least (1 + alpha) times as far from it as the mean
    of what it is without one of the others. Bool [..., n].

    distance: [..., n]; real: bool [..., n], false for padding
    unmasked: [...], the distance of the whole prompt, to which the only token of a prompt is compared; without it such
    a token is always a trigger, as in the official code, whose mean of nothing is no number
    """
    count = real.sum(-1, keepdim=True)
    total = (distance * real).sum(-1, keepdim=True)
    others = (total - distance) / (count - 1).clamp_min(1)
    if unmasked is not None:
        others = torch.where(count > 1, others, unmasked.unsqueeze(-1))
    found = distance >= (1 + alpha) * others
    if unmasked is None:
        found = found | (count == 1)
    return found & real


def projected(embeds: Tensor, inputs: Tensor, concept: Tensor, official: bool = False) -> Tensor:
    """Embeddings [..., tokens, width] without the concept, inside the span of the prompt's own masked encodings.

    P_I (I − P_C) e as in the paper; ``official``: (I − P_C) P_I e, the order of the authors' code.
    """
    if official:
        return out_of(into(embeds, inputs), concept)
    return into(out_of(embeds, concept), inputs)


def beta(embeds: Tensor, safe: Tensor, attended: Tensor) -> Tensor:
    """1 − mean cosine between embeddings and projected embeddings [..., tokens, width] over attended tokens: [...]."""
    cosine = torch.nn.functional.cosine_similarity(embeds, safe, dim=-1)
    return 1 - (cosine * attended).sum(-1) / attended.sum(-1)


def safe_steps(beta: Tensor, up_t: int, t0: float, k: float) -> Tensor:
    """The self-validating filter: up to which step the safe embeddings are used, an integer of 0 to ``up_t``.

    round(up_t · sigmoid(2k (10β − t0))): the more the projection takes from a prompt, the longer it acts.
    """
    return (up_t * torch.sigmoid(2 * k * (10 * beta.double() - t0))).round().long()
